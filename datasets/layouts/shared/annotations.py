"""Reading JSON annotation files and the paths in them, and showing their values in messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ...problems import DataError, InputError, Problem
from ...storage.store import Store, safe_path
from ...storage.text import read_text

_SHOWN = 60


def read_json(store: Store, path: str, *, distinct: bool = False) -> Any:
    """A JSON file's content; DataError with its place when it is missing or broken. With `distinct` also where a key
    stands twice in one object: the later would silently win."""
    twice: list[str] = []

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return content

    try:
        content = json.loads(read_text(store, path), object_pairs_hook=remember if distinct else None)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError([Problem(f"{store.uri}/{path}", "missing")]) from None
    except DataError:
        raise
    except ValueError as error:
        raise DataError([Problem(path, f"not JSON: {error}")]) from None
    except RecursionError:
        raise DataError([Problem(path, "not JSON that can be read: lists and objects are nested too deeply")]) from None
    if twice:
        raise DataError(Problem(path, f"duplicate ids: key {key!r} stands twice") for key in twice)
    return content


def named_path(path: str) -> str:
    """A path that an annotation names, with forward slashes and without `.` parts. Raises InputError when it could
    leave the folder it is joined to."""
    cleaned = "/".join(part for part in path.replace("\\", "/").split("/") if part != ".")
    try:
        return safe_path("" if re.match("[A-Za-z]:", cleaned) else re.sub("/+", "/", cleaned))
    except InputError:
        raise InputError(f"path must stay inside its folder, got {path!r}") from None


def shared_captions(of_people: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Count of the texts among (text, identity) that describe several identities: no ranking tells these apart."""
    of_text: dict[str, set[int]] = {}
    for text, identity in of_people:
        of_text.setdefault(text, set()).add(identity)
    return {"captions_of_several_identities": sum(len(identities) > 1 for identities in of_text.values())}


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
