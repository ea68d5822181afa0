"""What commands share: how they print and how they fail."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ...datasets.problems import InputError
from ...datasets.storage.store import is_disk_full

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Name = Annotated[str, typer.Argument(help="Name of the sweep.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE: override a field of the spec; repeatable.")]
Storage = Annotated[str, typer.Option(help="Folder or s3:// that holds sweeps.")]

# a table that is not on a terminal is not squeezed into 80 columns
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)


class WorkFailedError(Exception):
    """The command did what it could, and that was not enough: exit code 1."""


def exit_code(work: Callable[[], object]) -> int:
    """Does a command's work and says what went wrong; 0 done, 1 the work failed, 2 bad input."""
    try:
        work()
    except SystemExit as error:  # how typer ends
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except InputError as error:
        return _end(str(error), 2)
    except WorkFailedError as error:
        return _end(str(error), 1)
    except KeyboardInterrupt:
        return _end("interrupted", 1)
    except Exception as error:  # noqa: BLE001  the last word on any error
        if is_disk_full(error):
            return _end(f"no space left on the disk: {error}", 2)
        traceback.print_exc()
        return 1
    return 0


def _end(message: str, code: int) -> int:
    say(message)
    return code


def say(message: str) -> None:
    """What went wrong, for a person."""
    err.print(f"refsweep: {message}", markup=False, highlight=False, soft_wrap=True)


def tell(line: str) -> None:
    """How the work goes, beside the result."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def show(content: Any, as_json: bool, *rendered: Any) -> None:
    """A result: as JSON, or as people read it."""
    if as_json:
        sys.stdout.write(json.dumps(content, default=str) + "\n")
        return
    for part in rendered:
        out.print(part, highlight=False)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows with the same keys."""
    made = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        made.add_column(name)
    for row in rows:
        made.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    return made


def ledger_url(storage: str, ledger: str | None) -> str:
    """Where the ledger of a storage is. Raises InputError."""
    from ..spec.locations import check_url

    if ledger is None and storage.startswith("s3://"):
        raise InputError("--ledger must be given with s3:// storage")
    return check_url(ledger) if ledger else f"sqlite:///{Path(storage).expanduser().absolute()}/ledger.db"


def open_ledger(name: str, storage: str, ledger: str | None) -> Ledger:
    """A sweep's record. Raises InputError."""
    from ..ledger.ledger import Ledger

    return Ledger.open(ledger_url(storage, ledger), name)
