"""The files of a folder of the file system. A symbolic link in it may point to what lies in it too, and no further."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from ..problems import InputError

PARTIAL = ".partial"  # ending of a file that is being written


def check_inside(root: str, path: str) -> None:
    """Raises InputError where `path`, which begins with `root`, leads out of it by a link. `root` itself may be one."""
    real = os.path.realpath(path)
    if real == path:  # no link on the way
        return
    home = os.path.realpath(root)
    if real != home and not real.startswith(f"{home.rstrip('/')}/"):
        raise InputError(f"{path} must stay inside {root}, got a link that leads to {real}: put a copy in its place")


def names(root: str, folder: str) -> list[str]:
    """Names directly below a folder, in no order; none where there is no folder. Raises InputError for a link out of
    `root`."""
    check_inside(root, folder)
    try:
        return [_readable(folder, name) for name in os.listdir(folder) if not name.endswith(PARTIAL)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(root: str, start: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, int]]:
    """(path below `start`, size in bytes) of every file, in no order, but for files and folders of a name to `skip`.

    A link to a folder that the link lies in is not followed. Raises InputError for a link out of `root`.
    """
    check_inside(root, start)
    waiting: list[tuple[str, str, tuple[str, ...]]] = [(start, "", ())]
    while waiting:
        folder, prefix, above = waiting.pop()
        real = os.path.realpath(folder)
        if real in above:
            continue
        for entry in _entries(folder):
            if entry.name.endswith(PARTIAL) or skip(entry.name):
                continue
            if entry.is_symlink():
                check_inside(root, entry.path)
            path = f"{prefix}{_readable(folder, entry.name)}"
            try:
                if entry.is_dir():
                    waiting.append((entry.path, f"{path}/", (*above, real)))
                elif entry.is_file():
                    yield path, entry.stat().st_size
            except OSError:  # gone meanwhile, or a link to itself
                continue


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _readable(folder: str, name: str) -> str:
    """A name that can be written down: one that is not UTF-8 can't be, in no index, table or message."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"names of files must be UTF-8, got {os.fsencode(name)!r} in {folder}") from None
    return name
