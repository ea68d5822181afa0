"""Places of a sweep as people read them, without secrets, and whether two of them are one."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from .locations import sqlite_path


def shown(place: str) -> str:
    """A URL without passwords: of its user only the name is left, of its query nothing. A path stays as it is."""
    if "://" not in place or sqlite_path(place) is not None:
        return place
    parts = urlsplit(place)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))


def same_place(one: str, other: str) -> bool:
    """Whether two folders, `s3://` prefixes or URLs of databases name one place. Links are followed; the users of a
    database and its options make no difference."""
    return one == other or _key(one) == _key(other)


def _key(place: str) -> tuple[str, ...]:
    try:
        return _parts(place)
    except (ValueError, RuntimeError):  # no URL, or the home of nobody: its own check says so
        return ("", place)


def _parts(place: str) -> tuple[str, ...]:
    path = sqlite_path(place)
    if path is None and "://" not in place:
        path = Path(place).expanduser().absolute()
    if path is not None:
        return "file", str(path.resolve())
    parts, query = urlsplit(place), parse_qs(urlsplit(place).query)
    host, _, port = parts.netloc.rpartition("@")[2].partition(":")
    host = host or query.get("host", [""])[0]
    port = port or query.get("port", ["5432" if parts.scheme.startswith("postgresql") else ""])[0]
    return parts.scheme.partition("+")[0], host.lower(), port, parts.path.rstrip("/")


def this_host() -> str:
    """The name of the machine that this runs on."""
    return socket.gethostname()
