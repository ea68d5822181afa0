"""Keeps secrets out of what a cluster stores of a job: they travel as names, never as values."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...datasets.problems import InputError

_SECRET = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|API_?KEY|(^|_)(PASS|PWD|AUTH)($|_)|TOKENS?($|_)|KEYS?($|_)"
)
_PLACE = re.compile(r"(FILE|PATH|DIR|URI)$")  # the name of a file that holds a secret is none
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@\"]*:[^/\s@\"]+@|[?&]password=[^&\s\"]", re.IGNORECASE)
_OURS = ("RAY_", "REFSWEEP_", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME")


def looks_secret(name: str) -> bool:
    """Whether a variable of that name holds a secret."""
    name = name.upper()
    return bool(_SECRET.search(name)) and not _PLACE.search(name)


def holds_password(text: str) -> bool:
    """Whether there is a URL with a password in a text."""
    return bool(_IN_URL.search(text))


def plain_settings(settings: Sequence[str]) -> dict[str, str]:
    """Environment variables from `NAME=VALUE`. Raises InputError for secrets; no message repeats a value."""
    made: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise InputError(f"--env must be NAME=VALUE, got {name!r}")
        if name.startswith(_OURS):
            raise InputError(f"--env {name}: must be another variable: this one is set by Ray and refsweep")
        if looks_secret(name):
            raise InputError(
                f"--env {name}: must be no secret: the cluster shows a job's variables to everybody. Set {name} where "
                f"the cluster's hosts are started, and let `--needs {name}` check that it is there"
            )
        if holds_password(value):
            raise InputError(f"--env {name}: must be no URL with a password")
        made[name] = value
    return made


def names_needed(needs: Sequence[str]) -> list[str]:
    """Names of variables, and absolute paths of files, that must be on every host. Raises InputError."""
    for need in needs:
        if not _NAME.fullmatch(need) and not need.startswith(("/", "~/")):
            shown = need.partition("=")[0]
            raise InputError(f"--needs must be the name of a variable or an absolute path, got {shown!r}")
    return list(needs)
