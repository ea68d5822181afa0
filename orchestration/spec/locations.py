"""Where a sweep keeps things: database URLs that may be used, the files behind them, folders of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from ...datasets.problems import InputError
from ...datasets.storage.store import Store

if TYPE_CHECKING:
    from .schema import SweepSpec


def check_url(url: str) -> str:
    """A ledger URL that may be used. Raises InputError for another database, or one with a password in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("sqlite", "postgresql"):
        raise InputError(f"ledger must be sqlite:///FILE or postgresql://HOST/DB, got {parts.scheme or url}://...")
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise InputError("ledger must hold no password: put it into PGPASSFILE or ~/.pgpass, or use PGPASSWORD")
    return url


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL."""
    return Path(url.removeprefix("sqlite:///")).absolute() if url.startswith("sqlite:///") else None


def sweep_folder(spec: SweepSpec) -> Store:
    """Where a sweep's trials keep their checkpoints, and the mark that stops them."""
    return Store(spec.storage).child(spec.name)


def trial_folder(spec: SweepSpec, number: int) -> Store:
    """Where one trial keeps its checkpoints."""
    return sweep_folder(spec).child(str(number))
