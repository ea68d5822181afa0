"""What several tests share: sample data, made data, an S3 server, a Ray of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from refsweep.cluster.programs import MissingError
from refsweep.cluster.servers import S3
from refsweep.datasets.made.refer_kitti import Recipe, make
from refsweep.datasets.storage.store import Store


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
    folder = tmp_path_factory.mktemp("s3")
    try:
        server = S3(folder / "data", folder / "log")
    except MissingError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        try:
            server.start()
            yield "s3://bucket"
        finally:
            server.stop()


@pytest.fixture(scope="session")
def ray_local(request: pytest.FixtureRequest) -> Iterator[None]:
    """A Ray of this test session, two CPUs, that joins no other cluster. Its workers can reach the S3 server."""
    import ray

    with contextlib.suppress(MissingError):
        S3.check()
        request.getfixturevalue("s3")  # workers inherit the environment of this moment
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: other tests on the same cores would starve them
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
