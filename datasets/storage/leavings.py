"""What operating systems leave in folders, which is no one's data: skipped by all that lists a data set's files."""

from __future__ import annotations

from collections.abc import Iterator

from .store import Store

# in lower case: Windows and macOS make these in any
_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "$recycle.bin", "__macosx"}
    | {"system volume information", "lost+found", "@eadir", "#recycle", "#snapshot"}
)


def is_leaving(name: str) -> bool:
    """Whether a file or folder of this name is left by an operating system, or hidden: `.DS_Store`, `._x.jpg`,
    `Thumbs.db`, `desktop.ini`, `__MACOSX`, ..."""
    return name.startswith(".") or name.lower() in _NAMES


def has_leaving(path: str) -> bool:
    """Whether a part of a path, its folders included, is a leaving."""
    return any(is_leaving(part) for part in path.split("/"))


def data_names(store: Store, folder: str = "") -> list[str]:
    """Names directly below a folder, sorted, without leavings."""
    return [name for name in store.names(folder) if not is_leaving(name)]


def data_walk(store: Store, folder: str = "") -> Iterator[tuple[str, int]]:
    """(path below `folder`, size in bytes) of every file, sorted by path, without leavings."""
    return store.walk(folder, skip=is_leaving)
