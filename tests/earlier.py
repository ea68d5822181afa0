"""What an earlier commit wrote: two sweeps, their checkpoints and ledger, an MLflow with a registered version.

`fixtures/commit-4a374ca.tar.xz` holds the storage folder of `refsweep sweep run` (toy, 2 slots) for `finished` (6
trials) and `stopped` (ended by `sweep stop` in the fourth epoch of its first two), and of `model promote finished`. The
folder's own path stands in it as /earlier/out.
"""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

ARCHIVE = Path(__file__).parent / "fixtures" / "commit-4a374ca.tar.xz"
THEIRS = "/earlier/out"


def unpack(folder: Path) -> Path:
    """The storage folder as the earlier commit left it, at a new place that every path in it names."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for name in ("ledger.db", "mlflow.db"):
        _rename(folder / name, str(folder))
    for path in folder.rglob("MLmodel"):
        path.write_text(path.read_text().replace(THEIRS, str(folder)))
    return folder


def _rename(database: Path, ours: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in connection.execute(f"PRAGMA table_info('{table}')")]:
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?',  # noqa: S608
                    (THEIRS, ours, f"%{THEIRS}%"),
                )
