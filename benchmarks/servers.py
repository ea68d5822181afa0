"""Servers for a measurement: on loopback, in folders of their own, thrown away."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..cluster.servers import S3, Postgres


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= settings
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


@contextlib.contextmanager
def s3(folder: Path, bucket: str) -> Iterator[str]:
    """rclone on a folder; yields `s3://bucket`, which the environment says how to reach."""
    server = S3(folder / "buckets", folder / "s3.log", buckets=(bucket,))
    with _environment(server.environment()):
        try:
            server.start()
            yield f"s3://{bucket}"
        finally:
            server.stop()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database. Durable as by default: commits wait for the disk."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # its user is another
    server = Postgres(folder / "data", folder / "log", folder / "pgpass", durable=True)
    with _environment({"PGPASSFILE": str(server.passwords)}):
        try:
            server.make(("scale",))
            yield server.url("scale")
        finally:
            server.stop()
            shutil.rmtree(folder)
