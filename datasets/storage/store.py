"""Files below one root, a folder or `s3://bucket/prefix`, behind one interface.

Nothing connects before the first access. How object storage is reached, and what happens while it is unreachable:
see `s3`.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..problems import InputError
from . import local

if TYPE_CHECKING:
    from .s3 import Bucket


def safe_path(path: str) -> str:
    """The relative path `path`, or InputError when it could leave the root it is joined to."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise InputError(f"path must stay inside its folder, got {path!r}")
    return path


class Store:
    """Files below the root `uri`, addressed by relative paths with forward slashes.

    Picklable by its uri, so that it travels to data workers. A file is replaced whole: a reader sees
    the old content or the new one, never a part. In a folder a link that leads out of it is an InputError, for
    reading and for writing; the folder itself may be a link.
    """

    def __init__(self, uri: str) -> None:
        if "://" in uri and not uri.startswith("s3://"):
            raise InputError(f"a location must be a folder or s3://bucket/prefix, got {uri!r}")
        self.is_local = not uri.startswith("s3://")
        below = uri.removeprefix("s3://").strip("/")
        if not self.is_local and not below:
            raise InputError(f"s3:// needs a bucket, got {uri!r}")
        try:
            self.uri = str(Path(uri).expanduser().absolute()) if self.is_local else f"s3://{below}"
        except RuntimeError:
            raise InputError(f"a location must not be the home of an unknown user, got {uri!r}") from None

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    @cached_property
    def _bucket(self) -> Bucket:
        from .s3 import Bucket

        return Bucket(self.uri.removeprefix("s3://").partition("/")[0])

    def _key(self, path: str) -> str:
        root = self.uri.removeprefix("s3://").partition("/")[2]
        return "/".join(part for part in (root, safe_path(path) if path else "") if part)

    def child(self, path: str) -> Store:
        """The store of a folder below this one."""
        if self.is_local:
            self.local_path(path)
        return Store(f"{self.uri}/{safe_path(path)}")

    def local_path(self, path: str = "") -> Path:
        """Path of a file of a local store in the file system. Raises InputError for a link out of the store."""
        full = self._full(path)
        local.check_inside(self.uri, full)
        return Path(full)

    def _full(self, path: str) -> str:
        assert self.is_local, f"{self.uri} is not a folder"
        return f"{self.uri.rstrip('/')}/{safe_path(path)}" if path else self.uri

    def read(self, path: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        return self.local_path(path).read_bytes() if self.is_local else self._bucket.read(self._key(path))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes of a file from `start` on, fewer at its end, and no other. Raises FileNotFoundError."""
        if not self.is_local:
            return self._bucket.read_range(self._key(path), start, length)
        with open(self.local_path(path), "rb") as file:
            file.seek(start)
            return file.read(length)

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file, durably: once this returns, the content survives a power cut."""
        if self.is_local:
            _replace_file(self.local_path(path), content)
        else:
            self._bucket.write(self._key(path), content)

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or a folder at `path`. Raises InputError where the bucket is missing or closed."""
        return self.local_path(path).exists() if self.is_local else self._bucket.exists(self._key(path))

    def names(self, folder: str = "") -> list[str]:
        """Names directly below a folder, sorted; none where there is no folder."""
        if self.is_local:
            return sorted(local.names(self.uri, self._full(folder)))
        return sorted(self._bucket.names(self._key(folder)))

    def walk(self, folder: str = "", skip: Callable[[str], bool] = lambda _: False) -> Iterator[tuple[str, int]]:
        """(path below `folder`, size in bytes) of every file, sorted by path; none of a file or in a folder whose name
        is one to `skip`."""
        if self.is_local:
            yield from sorted(local.walk(self.uri, self._full(folder), skip))
            return
        key = self._key(folder)
        start = len(key) + 1 if key else 0
        for path, size in sorted(self._bucket.objects(key)):
            if not any(map(skip, path[start:].split("/"))):
                yield path[start:], size

    def delete(self, path: str) -> None:
        """Removes a file or a folder with all in it; nothing happens where there is none."""
        if not self.is_local:
            self._bucket.delete(self._key(path))
            return
        full = Path(self._full(path))
        if path:  # a link itself may be removed, whatever it leads to
            local.check_inside(self.uri, str(full.parent))
        if full.is_dir() and not full.is_symlink():
            shutil.rmtree(full, ignore_errors=True)
        else:
            full.unlink(missing_ok=True)


def read_file(uri: str) -> bytes:
    """One file that the user names, a path or s3://; a link is followed. Raises FileNotFoundError."""
    if "://" not in uri:
        return Path(uri).expanduser().read_bytes()
    folder, _, name = uri.rpartition("/")
    return Store(folder).read(name)


def _replace_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{local.PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that no space is left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen) or "database or disk is full" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
