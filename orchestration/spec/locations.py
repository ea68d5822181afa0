"""Which places a sweep's record may be kept in: URLs of ledgers and of MLflow, and the files behind them.

None of the errors repeats a URL that may hold a password.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...datasets.problems import InputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_SECRET_KEY = re.compile(r"passw|passphrase|pwd|secret|token", re.IGNORECASE)  # of a URL's query
# SQLAlchemy takes what follows `?` for options and decodes `%41`; Optuna takes braces for a template
_NOT_IN_SQLITE = re.compile(r"\?|%[0-9A-Fa-f]{2}|[{}]")
TRACKING = "none, http://HOST, https://HOST, sqlite:///FILE or the URL of a database (postgresql, mysql, mssql)"


def check_url(url: str) -> str:
    """The URL of a ledger, unchanged. Raises InputError for another kind of database, for a file whose name can't
    stand in a URL, and for a URL with a password."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in ("sqlite", "postgresql"):
        raise InputError(f"ledger must be sqlite:///FILE or postgresql://HOST/DB, got {_kind_of(url)}")
    if scheme == "sqlite":
        problem = sqlite_problem(url)
        if problem is not None:
            raise InputError(f"ledger {problem}")
    elif _holds_password(rest):
        raise InputError("ledger must not contain a password: use PGPASSFILE, ~/.pgpass or PGPASSWORD")
    else:
        _readable(url, "ledger")
    return url


def check_tracking(uri: str, name: str = "tracking") -> str:
    """The URI of an MLflow, or `none`, unchanged. Raises InputError for what MLflow can't register models in, and for
    one with a user or a password; `name` is where it was given."""
    if uri == "none":
        return uri
    scheme, colon, rest = uri.partition("://")
    authority = re.split(r"[/?#]", rest if colon else uri)[0]
    if "@" in unquote(authority) or _holds_password(rest) or ("@" in uri and not colon):
        raise InputError(
            f"{name} must hold no user or password: use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    dialect = scheme.partition("+")[0]
    if not colon or dialect not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql"):
        folder = "" if colon else ": MLflow no longer keeps runs in folders"
        raise InputError(f"{name} must be {TRACKING}, got {_kind_of(uri)}{folder}")
    if dialect == "sqlite":
        problem = sqlite_problem(uri)
        if problem is not None:
            raise InputError(f"{name} {problem}")
        return uri
    _readable(uri, name)
    if dialect in ("http", "https"):
        if not authority.rpartition("@")[2].partition(":")[0]:
            raise InputError(f"{name} must name a host, got {_kind_of(uri)}")
    else:
        _importable(uri, name)
    return uri


def sqlite_problem(url: str) -> str | None:
    """What is wrong with the URL of a SQLite file, beginning with `must`; None when nothing is."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path.strip("/") or path == ":memory:":
        return f"must be sqlite:///FILE, got {url!r}"
    odd = _NOT_IN_SQLITE.search(str(sqlite_path(url)))
    if odd is not None:
        folder = str(sqlite_path(url)).rpartition("/")[0]
        return f"must lie in a folder whose path holds no ?, no braces and no % before two digits, got {folder!r}"
    return None


def sqlite_path(url: str) -> Path | None:
    """The absolute path of a SQLite database; None for the URL of a server."""
    return folder_path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def folder_path(text: str) -> Path:
    """The absolute path that a person means, `~` written out. Raises InputError for the home of an unknown user."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise InputError(
            f"{text.partition('/')[0]} is the home of no known user: write ./{text} for a folder"
        ) from None


def _holds_password(rest: str) -> bool:
    """Whether what follows `://` holds a password, as SQLAlchemy and libpq read it."""
    if re.match(r"[^:/]*:[^@]*@", rest) or "%3a" in rest.rpartition("@")[0].lower():
        return True
    names = [pair.partition("=")[0] for pair in re.split(r"[&;]", rest.partition("?")[2])]
    return any(_SECRET_KEY.search(unquote(name)) and unquote(name).lower() != "passfile" for name in names)


def _kind_of(url: str) -> str:
    """A URL for a message: of one that could hold a password the scheme alone."""
    scheme, colon, _ = url.partition("://")
    if colon and _SCHEME.fullmatch(scheme):
        return f"{scheme}://..."
    return "a text without a scheme" if re.search(r"[@:=]", url) else repr(url)


def _readable(url: str, name: str) -> None:
    """Raises InputError for a URL that no library could take apart."""
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:  # several hosts, each with a port
            _ = parts.port
    except ValueError:
        raise InputError(f"{name} must be a URL with a host and a port in 0..65535, got {_kind_of(url)}") from None


def _importable(uri: str, name: str) -> None:
    """Raises InputError for a database whose driver is not installed."""
    import sqlalchemy  # here: most sweeps need none for MLflow

    try:
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()
    except sqlalchemy.exc.ArgumentError:
        raise InputError(f"{name} must be {TRACKING}, got {_kind_of(uri)}") from None
    except ImportError as error:
        raise InputError(f"{name} needs the Python module {error.name}, which is not installed") from None
