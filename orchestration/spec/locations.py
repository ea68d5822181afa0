"""Where a sweep keeps things: database URLs that a ledger may have, the files behind them, folders of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from ...datasets.problems import InputError
from ...datasets.storage.store import Store

if TYPE_CHECKING:
    from .schema import SweepSpec


def check_url(url: str) -> str:
    """The URL of a ledger, unchanged. Raises InputError for another kind of database and for a URL with a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("sqlite", "postgresql"):
        raise InputError(f"ledger must be sqlite:///FILE or postgresql://HOST/DB, got {parts.scheme or url}://...")
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise InputError("ledger must not contain a password: use PGPASSFILE, ~/.pgpass or PGPASSWORD")
    return url


def sqlite_path(url: str) -> Path | None:
    """The absolute path of a SQLite database; None for the URL of a server."""
    return Path(url.removeprefix("sqlite:///")).absolute() if url.startswith("sqlite:///") else None


def sweep_folder(spec: SweepSpec) -> Store:
    """Where a sweep's trials keep their checkpoints, and the mark that stops them."""
    return Store(spec.storage).child(spec.name)


def trial_folder(spec: SweepSpec, number: int) -> Store:
    """Where one trial keeps its checkpoints."""
    return sweep_folder(spec).child(str(number))
