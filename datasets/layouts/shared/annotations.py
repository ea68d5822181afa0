"""Reading JSON annotation files, and showing their values in messages."""

from __future__ import annotations

import json
from typing import Any

from ...problems import DataError, Problem
from ...storage.store import Store

_SHOWN = 60


def read_json(store: Store, path: str) -> Any:
    """A JSON file's content; DataError with its place when it is missing or broken."""
    try:
        return json.loads(store.read(path))
    except (FileNotFoundError, IsADirectoryError):
        raise DataError([Problem(f"{store.uri}/{path}", "missing")]) from None
    except ValueError as error:
        raise DataError([Problem(path, f"not JSON: {error}")]) from None


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
