"""`refsweep sweep adopt`: a sweep whose places have changed."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Json, Name, Storage, ledger_url, show
from .places import absolute, given


def adopt(
    context: typer.Context,
    name: Name,
    storage: Storage = "./refsweep-out",
    ledger: Annotated[
        str | None, typer.Option("--ledger", help="Where the ledger is now. Default: <storage>/ledger.db.")
    ] = None,
    tracking: Annotated[str | None, typer.Option(help="Where MLflow is from now on; none is no MLflow.")] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Make this copy a sweep of its own, with runs of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Record where a sweep is now, after its files were moved or a place was mistyped.

    Storage and ledger must be of one sweep. What was left behind at the old place is refused at its next start.
    """
    from ..adopt import Places, described
    from ..adopt import adopt as record

    place = absolute(storage) if given(context, "storage") or ledger is None else None
    places = Places(ledger=ledger_url(storage, ledger), storage=place, tracking=tracking, exact=ledger is not None)
    adopted = record(name, places, copy=copy)
    show(adopted, as_json, *described(adopted))
