"""Keeps secrets out of what a cluster stores about a job: jobs carry the names of variables, never secret values."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...datasets.problems import InputError

_SECRET = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|API_?KEY|(^|_)(PASS|PWD|AUTH)($|_)|TOKENS?($|_)|KEYS?($|_)"
)
_LOCATION = re.compile(r"(FILE|PATH|DIR|URI)$")  # where a secret is kept is not secret itself
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/\s@\"]*?(?::|%3a)[^/\s@\"]+@|[?&;][\w%]*(?:password|passwd|passphrase|pwd)=[^&;\s\"]",
    re.IGNORECASE,
)
# what is hidden in messages: passwords before an @, with and without a scheme, and those of queries and settings
_SHOWN = (
    (re.compile(r"(://[^/\s:@\"']*?(?::|%3a))[^/\s\"']+@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"(?<![\w/])([\w.%+-]+:)[^\s/@:\"']+(?=@[\w.-]+(?::\d|/))"), r"\1***"),
    (re.compile(r"(\b[\w%]*(?:password|passwd|passphrase|pwd|secret))=[^&;\s\"']+", re.IGNORECASE), r"\1=***"),
)
_RESERVED = ("RAY_", "REFSWEEP_", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME")


def looks_secret(name: str) -> bool:
    """Whether a variable of that name is likely to hold a secret."""
    name = name.upper()
    return bool(_SECRET.search(name)) and not _LOCATION.search(name)


def holds_password(text: str) -> bool:
    """Whether a text contains a URL with a password."""
    return bool(_IN_URL.search(text))


def redacted(text: str) -> str:
    """A text with what looks like a password in it replaced by ***."""
    for pattern, shown in _SHOWN:
        text = pattern.sub(shown, text)
    return text


def plain_settings(settings: Sequence[str]) -> dict[str, str]:
    """Environment variables from texts `NAME=VALUE`. Raises InputError for secrets, without repeating their values."""
    variables: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise InputError(f"--env must be NAME=VALUE, got {name!r}")
        if name.startswith(_RESERVED):
            raise InputError(
                f"--env {name}: variables that begin with {', '.join(_RESERVED)} are set by Ray and refsweep"
            )
        if looks_secret(name):
            raise InputError(
                f"--env {name}: must not be a secret, because everyone who can list the cluster's jobs can read it. "
                f"Set {name} where the cluster's hosts are started, and pass `--needs {name}` to check that it is set"
            )
        if holds_password(value):
            raise InputError(f"--env {name}: must not contain a URL with a password")
        variables[name] = value
    return variables


def names_needed(needs: Sequence[str]) -> list[str]:
    """Names of variables and absolute paths that every host must have, checked for form. Raises InputError."""
    for need in needs:
        if not _NAME.fullmatch(need) and not need.startswith(("/", "~/")):
            shown = need.partition("=")[0]
            raise InputError(f"--needs must be the name of a variable or an absolute path, got {shown!r}")
    return list(needs)
