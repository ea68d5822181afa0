"""What commands share: options, and how they print.

Imports inside functions save start-up time: `refsweep --help` loads no database.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...datasets.problems import InputError
from ..spec.credentials import redacted

if TYPE_CHECKING:
    from ..ledger.ledger import Ledger

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Name = Annotated[str, typer.Argument(help="Name of the sweep.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE: override a field of the spec; repeatable.")]
Tracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow. Default: MLFLOW_TRACKING_URI, else sqlite:///<storage>/mlflow.db."),
]
SweepTracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow. A sweep keeps the one it began with: any other is refused."),
]
Storage = Annotated[str, typer.Option(help="Folder or s3:// that holds sweeps.")]

# control characters, halves of characters, and those that change the direction of what follows
_UNSAFE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)


def safe(text: object, *, lines: bool = False) -> str:
    """Text of users, errors, tags and logs as terminals and logs may show it: control characters are written as
    escapes, passwords in URLs are hidden. Newlines are escaped too; with `lines` they stay, and what follows them is
    indented, so that no text can pass for a line of ours."""
    shown = _UNSAFE.sub(_escaped, redacted(str(text).replace("\r\n", "\n")))
    if not lines:
        return shown.replace("\n", "\\n")
    return re.sub(r"\n(?!  |\n|$)", "\n  ", shown)


def _escaped(match: re.Match[str]) -> str:
    return " " if match[0] == "\t" else match[0].encode("unicode_escape").decode()


class _Console(Console):
    """A console that takes text for text, and goes on when nobody reads it any more (`refsweep ... | head -1`)."""

    def __init__(self, *, stderr: bool) -> None:
        # a table that is not on a terminal is not squeezed into 80 columns
        width = None if stderr or sys.stdout.isatty() else 160
        super().__init__(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """What is printed from here on goes nowhere; the command's exit code says how its work ended."""
        drop(self.file)


def console(*, stderr: bool) -> Console:
    """Where commands print: results on stdout, everything else on stderr."""
    return _Console(stderr=stderr)


def drop(stream: IO[str]) -> None:
    """Sends what a stream still holds, and what is written to it from here on, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say(message: str) -> None:
    """Prints what went wrong on stderr."""
    tell(f"refsweep: {message}")


def tell(line: str) -> None:
    """Prints progress on stderr, apart from the result."""
    console(stderr=True).print(safe(line, lines=True), soft_wrap=True)


def show(content: Any, as_json: bool, *rendered: Any) -> None:
    """Prints a result on stdout: `content` as one JSON object, or the parts that are made for people."""
    if not as_json:
        for part in rendered:
            console(stderr=False).print(safe(part, lines=True) if isinstance(part, str) else part)
        return
    try:
        sys.stdout.write(json.dumps(content, default=str) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table of rows that have the same keys, its columns."""
    shown = Table(title=heading(title), title_justify="left")
    for name in rows[0] if rows else ():
        shown.add_column(Text(safe(name)))
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    return shown


def heading(text: str) -> Text:
    """The title of a table."""
    return Text(safe(text), style="table.title")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else safe(value)


def ledger_url(storage: str, ledger: str | None) -> str:
    """The URL of the ledger that `--storage` and `--ledger` name. Raises InputError."""
    from ..spec.locations import check_url, folder_path

    if ledger is None and storage.startswith("s3://"):
        raise InputError("--ledger must be given with s3:// storage")
    return check_url(ledger if ledger is not None else f"sqlite:///{folder_path(storage)}/ledger.db")


def open_ledger(name: str, storage: str, ledger: str | None) -> Ledger:
    """The ledger of a sweep that exists. Raises InputError."""
    from ..ledger.ledger import Ledger

    return Ledger.open(ledger_url(storage, ledger), name, readonly=True)
