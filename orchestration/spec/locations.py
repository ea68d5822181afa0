"""Where records are: which database URLs may be used, and the files behind them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ...datasets.problems import InputError


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
