"""The SQLite file of a ledger: is it whole, whose is it, and how is it read by who may not write beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from ..spec.errors import LedgerUnavailableError
from .schema import is_ledger

TIMEOUT_S = 60.0  # how long a write waits for another process's
COPIES = 5  # attempts to copy a file that somebody writes to
WAL_HEADER = 32  # bytes; they change whenever the log begins anew


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to a file that exists; `mode` is `ro` or `rw`. Raises sqlite3.Error."""
    uri = f"file:{quote(str(path))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S, check_same_thread=False)


def check(path: Path, mode: str) -> bool:
    """Whether a file holds a ledger; False for an empty one. Raises LedgerUnavailableError for a damaged file and for
    another program's, sqlite3.Error for one that can't be opened."""
    with contextlib.closing(connect(path, mode)) as connection:
        try:
            wrong = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(1)")]
            tables = {
                str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            revision = None
            if "alembic_version" in tables:
                revision = next((str(row[0]) for row in connection.execute("SELECT * FROM alembic_version")), None)
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise damaged(path, error) from error
    if wrong != ["ok"]:
        raise damaged(path, " ".join(wrong[0].split()))
    return is_ledger(tables, revision, str(path), shared=False)


def damaged(path: Path, why: object) -> LedgerUnavailableError:
    """That a file is damaged."""
    return LedgerUnavailableError(f"the ledger can't be opened: {path} is damaged ({why}); put a copy of it back")


def copied(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder with a copy of a ledger that can't be opened where it is, with what its log holds. It is gone when it is
    cleaned up, or no longer used. Raises LedgerUnavailableError."""
    problem: Exception | None = None
    for _ in range(COPIES):
        folder = tempfile.TemporaryDirectory(prefix="refsweep-ledger-")
        copy = Path(folder.name, path.name)
        try:
            before = _state(path)
            for end in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{end}", f"{copy}{end}")
            if _state(path) == before and check(copy, "rw"):
                return folder
        except (OSError, sqlite3.Error, LedgerUnavailableError) as error:
            problem = error
        folder.cleanup()
        time.sleep(0.2)  # its driver was just writing
    if isinstance(problem, LedgerUnavailableError):
        raise LedgerUnavailableError(str(problem).replace(str(copy), str(path))) from problem
    raise LedgerUnavailableError(
        f"the ledger {path} can't be read: {problem or 'it changes all the time'}"
    ) from problem


def _state(path: Path) -> tuple[object, ...]:
    """Changes when what a log holds moves into the file: then a copy of both may lack it."""
    found = os.stat(path)
    head = b""
    with contextlib.suppress(FileNotFoundError), open(f"{path}-wal", "rb") as log:
        head = log.read(WAL_HEADER)
    return found.st_ino, found.st_size, found.st_mtime_ns, head
