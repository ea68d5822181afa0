"""What commands share: options, how they print, how they fail.

Imports inside functions save start-up time: `refsweep --help` loads no database.
"""

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
from ..spec.errors import WorkFailedError as WorkFailedError

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Name = Annotated[str, typer.Argument(help="Name of the sweep.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE: override a field of the spec; repeatable.")]
Storage = Annotated[str, typer.Option(help="Folder or s3:// that holds sweeps.")]

# a table that is not on a terminal is not squeezed into 80 columns
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)


def exit_code(work: Callable[[], object]) -> int:
    """Does a command's work and prints what went wrong: 0 done, 1 the work failed, 2 bad input."""
    return run_to_exit(work)[0]


def run_to_exit(work: Callable[[], object]) -> tuple[int, str]:
    """As `exit_code`, with the message that was printed; it is empty where there was none."""
    try:
        work()
    except SystemExit as error:  # how typer ends
        return (error.code if isinstance(error.code, int) else int(error.code is not None)), ""
    except InputError as error:
        code, message = 2, str(error)
    except WorkFailedError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 1, "interrupted"
    except Exception as error:  # noqa: BLE001  every other error ends here
        if not is_disk_full(error):
            traceback.print_exc()
            return 1, f"{type(error).__name__}: {error}"
        code, message = 2, f"no space left on the disk: {error}"
    else:
        return 0, ""
    say(message)
    return code, message


def say(message: str) -> None:
    """Prints what went wrong on stderr."""
    err.print(f"refsweep: {message}", markup=False, highlight=False, soft_wrap=True)


def tell(line: str) -> None:
    """Prints progress on stderr, apart from the result."""
    err.print(line, markup=False, highlight=False, soft_wrap=True)


def show(content: Any, as_json: bool, *rendered: Any) -> None:
    """Prints a result on stdout: `content` as one JSON object, or the parts that are made for people."""
    if as_json:
        sys.stdout.write(json.dumps(content, default=str) + "\n")
        return
    for part in rendered:
        out.print(part, highlight=False)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table of rows that have the same keys, its columns."""
    shown = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        shown.add_column(name)
    for row in rows:
        shown.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    return shown


def ledger_url(storage: str, ledger: str | None) -> str:
    """The URL of the ledger that `--storage` and `--ledger` name. Raises InputError."""
    from ..spec.locations import check_url

    if ledger is None and storage.startswith("s3://"):
        raise InputError("--ledger must be given with s3:// storage")
    return check_url(ledger) if ledger else f"sqlite:///{Path(storage).expanduser().absolute()}/ledger.db"


def open_ledger(name: str, storage: str, ledger: str | None) -> Ledger:
    """The ledger of a sweep that exists. Raises InputError."""
    from ..ledger.ledger import Ledger

    return Ledger.open(ledger_url(storage, ledger), name, readonly=True)
