"""The fingerprint of a data set: one hash over its files."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from .problems import InputError
from .storage.leavings import data_walk
from .storage.store import Store

_BY_NAME_AND_SIZE = (".png", ".jpg", ".jpeg", ".bmp", ".mp4", ".avi", ".parquet", ".arrow")


def fingerprint(store: Store) -> str:
    """`sha256:<64 hex digits>` over every file's path, and content; of frames and videos the size stands for it.

    Reading every frame of a large data set from object storage would take hours; annotations decide what
    is learnt and are read whole. Hidden files and what operating systems leave are left out. Raises InputError when
    there is nothing.
    """
    files = list(data_walk(store))
    if not files:
        raise InputError(f"no data at {store.uri}")

    def line_of(entry: tuple[str, int]) -> str:
        path, size = entry
        if path.lower().endswith(_BY_NAME_AND_SIZE):
            return f"{path} {size}"
        return f"{path} {hashlib.sha256(store.read(path)).hexdigest()}"

    with ThreadPoolExecutor(16) as pool:
        lines = list(pool.map(line_of, files))
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"
