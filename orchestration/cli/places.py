"""Finds a sweep by name under `--storage` and `--ledger`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .output import ledger_url

if TYPE_CHECKING:
    from ..sweep import Sweep


def find(
    context: typer.Context,
    name: str,
    storage: str,
    ledger: str | None,
    tracking: str | None = None,
    *,
    readonly: bool = False,
) -> Sweep:
    """The sweep that a command means. Raises InputError when its record names other places than those that were given,
    unless the command only looks at it, `readonly`."""
    from ..sweep import find_sweep

    # without --ledger, --storage says where the ledger is, which may be apart from the checkpoints
    place = absolute(storage) if ledger is not None and given(context, "storage") else None
    return find_sweep(ledger_url(storage, ledger), name, tracking, storage=place, readonly=readonly)


def absolute(storage: str) -> str:
    """A storage as it is recorded."""
    return storage if storage.startswith("s3://") else str(Path(storage).expanduser().absolute())


def given(context: typer.Context, option: str) -> bool:
    """Whether an option of the running command was given, and is not its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
