"""Folders for as long as a process lives: removed at its end, and by the next process where it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OWNER = "owner"  # a file in the folder, locked for as long as the folder's process lives
UNFINISHED_S = 3600.0  # a folder without one is being made, or was by a process that was killed meanwhile


@contextlib.contextmanager
def own_folder(prefix: str, base: str) -> Iterator[Path]:
    """A new folder below `base` that only this user may read. Those with the prefix whose process is gone are removed
    first."""
    remove_abandoned(prefix, base)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    lock = os.open(folder / f".{OWNER}", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(folder / f".{OWNER}", folder / OWNER)  # from here on, who can lock it knows that we are gone
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(prefix: str, base: str) -> list[Path]:
    """Removes this user's folders below `base` whose process is gone; which."""
    removed = []
    for folder in Path(base).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink() and _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def _abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - folder.lstat().st_mtime > UNFINISHED_S
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
