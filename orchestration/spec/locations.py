"""Which database URLs a ledger may have, and the files behind them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ...datasets.problems import InputError


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
