"""Files below one root, a folder or `s3://bucket/prefix`, behind one face.

S3 takes its endpoint, region and credentials from the usual AWS variables (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, ...). Nothing connects before the first access. pyarrow reads and lists, without
holding Python's lock.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pyarrow import fs

from .problems import InputError


def safe_path(path: str) -> str:
    """The relative path `path`, or InputError when it could leave the root it is joined to."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise InputError(f"path must stay inside its folder, got {path!r}")
    return path


class Store:
    """Files below the root `uri`, addressed by relative paths with forward slashes.

    Picklable by its uri, so that it travels to data workers. A file is replaced whole: a reader sees
    the old content or the new one, never a part.
    """

    def __init__(self, uri: str) -> None:
        if "://" in uri and not uri.startswith("s3://"):
            raise InputError(f"a location must be a folder or s3://bucket/prefix, got {uri!r}")
        self.is_local = not uri.startswith("s3://")
        below = uri.removeprefix("s3://").strip("/")
        if not self.is_local and not below:
            raise InputError(f"s3:// needs a bucket, got {uri!r}")
        self.uri = str(Path(uri).expanduser().absolute()) if self.is_local else f"s3://{below}"

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    @cached_property
    def _fs(self) -> Any:
        if self.is_local:
            return fs.LocalFileSystem()
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return fs.S3FileSystem(endpoint_override=endpoint, region=os.environ.get("AWS_REGION"))

    @cached_property
    def _s3(self) -> Any:
        """boto3 writes and deletes: pyarrow's deletion puts a marker object for the parent folder, which not
        every server takes, and boto3 uploads large files in parts and retries with jitter."""
        import boto3
        from botocore.config import Config

        return boto3.client("s3", config=Config(retries={"mode": "adaptive", "max_attempts": 8}))

    def _full(self, path: str) -> str:
        root = self.uri if self.is_local else self.uri.removeprefix("s3://")
        return f"{root}/{safe_path(path)}" if path else root

    def child(self, path: str) -> Store:
        """The store of a folder below this one."""
        return Store(f"{self.uri}/{safe_path(path)}")

    def local_path(self, path: str = "") -> Path:
        """Where a file of a local store lies."""
        assert self.is_local, f"{self.uri} is not a folder"
        return Path(self._full(path))

    def read(self, path: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        if self.is_local:
            return self.local_path(path).read_bytes()
        with self._fs.open_input_stream(self._full(path)) as stream:
            return bytes(stream.read())

    def write(self, path: str, content: bytes) -> None:
        """Replaces a file, durably: once this returns, the content survives a power cut."""
        if self.is_local:
            _replace_file(self.local_path(path), content)
            return
        bucket, _, key = self._full(path).partition("/")
        self._s3.upload_fileobj(io.BytesIO(content), bucket, key)

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or a folder at `path`."""
        return bool(self._fs.get_file_info(self._full(path)).type != fs.FileType.NotFound)

    def names(self, folder: str = "") -> list[str]:
        """Names directly below a folder, sorted; none where there is no folder."""
        return sorted(info.base_name for info in self._infos(folder, recursive=False))

    def walk(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(path below `folder`, size in bytes) of every file, sorted by path."""
        start = len(self._full(folder)) + 1
        files = [i for i in self._infos(folder, recursive=True) if i.type == fs.FileType.File]
        for info in sorted(files, key=lambda i: i.path):
            yield info.path[start:], info.size

    def _infos(self, folder: str, *, recursive: bool) -> list[Any]:
        selector = fs.FileSelector(self._full(folder), recursive=recursive, allow_not_found=True)
        return [i for i in self._fs.get_file_info(selector) if not i.base_name.endswith(_PARTIAL)]

    def delete(self, path: str) -> None:
        """Removes a file or a folder with all in it; nothing happens where there is none."""
        if self.is_local:
            full = self.local_path(path)
            if full.is_dir() and not full.is_symlink():
                shutil.rmtree(full, ignore_errors=True)
            else:
                full.unlink(missing_ok=True)
            return
        bucket, _, key = self._full(path).partition("/")
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        for name in [item["Key"] for page in pages for item in page.get("Contents", ())]:
            if name == key or name.startswith(f"{key}/"):
                self._s3.delete_object(Bucket=bucket, Key=name)


_PARTIAL = ".partial"


def _replace_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
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
