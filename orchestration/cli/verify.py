"""`refsweep sweep verify`: whether all that a sweep has left agrees."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..spec.errors import WorkFailedError
from .output import Json, Name, Storage, ledger_url, show, table
from .places import absolute


def verify(
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: Annotated[str | None, typer.Option("--ledger", help="Default: <storage>/ledger.db.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what follows from the rest; a lost ledger is made again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare ledger, checkpoints, MLflow and registered versions, and say every difference.

    Exit code 0: they agree, or everything was repaired. 1: differences are left.
    """
    from ..verify import verify as compare

    found = compare(name, ledger_url(storage, ledger), absolute(storage), repair=repair)
    content = found.as_json()
    parts: list[Any] = [*found.repaired]
    if found.differences:
        parts.append(table(f"differences in sweep {name}", content["differences"]))
    else:
        parts.append(f"sweep {name}: no differences")
    show(content, as_json, *parts)
    if found.differences:
        hint = "" if repair else f": `refsweep sweep verify {name} --repair` mends what it can"
        raise WorkFailedError(f"sweep {name}: {len(found.differences)} differences{hint}")
