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


def same_database(one: str, other: str) -> bool:
    """Whether two URLs name one database: one file, or one name on one server. Drivers and users are no difference."""
    first, second = sqlite_path(one), sqlite_path(other)
    if first is not None or second is not None:
        return first is not None and second is not None and first.resolve() == second.resolve()
    a, b = urlsplit(one), urlsplit(other)
    kinds = {parts.scheme.partition("+")[0] for parts in (a, b)}
    places = {((p.hostname or "localhost").lower(), _port(p.netloc), p.path.strip("/")) for p in (a, b)}
    return kinds <= {"postgresql", "postgres"} and len(places) == 1


def _port(place: str) -> str:
    port = place.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    return port or "5432"
