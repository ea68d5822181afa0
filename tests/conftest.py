"""What several tests share: sample data, made data, an S3 server, a Ray of our own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from refsweep.datasets.made.refer_kitti import Recipe, make
from refsweep.datasets.store import Store
from refsweep.tests.help import free_port


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of sample data beside the checkout; tests that need it are skipped where it is missing."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no sample data at {folder}")
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small made Refer-KITTI data set; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("made")
    make(Store(str(out)), Recipe(videos=6, frames=24, width=208, expressions=10, seed=3))
    return out


@pytest.fixture
def made_copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the made data set that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server on loopback with an empty bucket; yields `s3://bucket`."""
    rclone = Path(sys.executable).parent / "rclone"
    if not rclone.exists():
        pytest.skip("rclone is not installed")
    root, port = tmp_path_factory.mktemp("s3"), free_port()
    (root / "bucket").mkdir()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    server = subprocess.Popen(
        [rclone, "serve", "s3", "--auth-key", "key,secret", "--addr", f"127.0.0.1:{port}", str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        for _ in range(100):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield "s3://bucket"
    server.terminate()
    server.wait()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this test session, two CPUs, that joins no other cluster."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
