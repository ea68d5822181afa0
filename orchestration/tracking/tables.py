"""MLflow's tables in a new SQLite file.

MLflow makes them by running every migration it ever had: two seconds of computing, while the first trials want to
start. So they are made once for each version of MLflow, kept in the user's cache, and copied.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path


def copy_tables(path: Path, version: str, make: Callable[[str], object]) -> None:
    """Gives a SQLite file that is not there yet the tables of an MLflow version. `make` lets MLflow make them in the
    file of a URI. Where the cache can't be used nothing is done: MLflow then makes them itself."""
    with contextlib.suppress(Exception):  # MLflow tries itself, and says what is wrong
        if path.exists():
            return
        kept = _cache() / f"mlflow-{version}.db"
        if not kept.exists():
            _keep(kept, make)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
            copy = shutil.copyfile(kept, Path(folder) / path.name)
            os.link(copy, path)  # fails where another process was first


def _keep(kept: Path, make: Callable[[str], object]) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder) / kept.name
        make(f"sqlite:///{made}")
        with contextlib.closing(sqlite3.connect(made)) as database:
            with database:
                database.execute("DELETE FROM experiments")  # the default one names this folder; MLflow makes it anew
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.replace(made, kept)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refsweep"
