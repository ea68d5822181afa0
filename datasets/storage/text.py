"""Text files as people have them: UTF-8, with a byte order mark or without."""

from __future__ import annotations

import codecs

from ..problems import DataError, Problem
from .store import Store

_OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(store: Store, path: str) -> str:
    """A text file's content without its byte order mark. Raises FileNotFoundError, and DataError for another encoding
    than UTF-8."""
    return decoded(store.read(path), path)


def decoded(content: bytes, where: str) -> str:
    """UTF-8 as text, without a byte order mark. Raises DataError with the place for another encoding."""
    rule = "must be UTF-8 text"
    for mark, name in _OTHERS.items():
        if content.startswith(mark):
            raise DataError([Problem(where, f"{rule}, got {name}: save it as UTF-8")])
    if b"\0" in content:
        raise DataError([Problem(where, f"{rule}, got zero bytes, as UTF-16 or a binary file has: save it as UTF-8")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"{rule}, got the byte 0x{content[error.start]:02x}: save it as UTF-8"
        raise DataError([Problem(f"{where}:{line}", what)]) from None
