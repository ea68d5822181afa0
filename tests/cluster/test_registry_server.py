"""The registry of an MLflow server that stores artifacts for its clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from refsweep.cluster.servers import MLflow
from refsweep.orchestration.registry.registry import Registry
from refsweep.tests.orchestration.registry.light import Place, backwards_and_forwards, swept, without_files

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    mlflow = MLflow(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), folder / "log", {})
    try:
        mlflow.start()
        yield mlflow.url
    finally:
        mlflow.stop()


@pytest.fixture
def place(server: str, tmp_path: Path) -> Iterator[Place]:
    spec, ledger = swept(tmp_path / "out", tracking=server)
    yield Place(spec, ledger, Registry(server))
    ledger.close()


def test_a_server_behaves_as_a_file_does(place: Place):
    with without_files():
        backwards_and_forwards(place)


def test_a_version_of_a_server_is_fetched_and_its_files_are_compared(place: Place, tmp_path: Path):
    version = place.promote(0)["version"]
    (tmp_path / "fetched").mkdir()
    package, folder = place.registry.fetch(f"toy/{version}", tmp_path / "fetched")
    assert package.origin["trial"] == 0
    tags = place.registry.client.get_model_version("toy", str(version)).tags
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(json.loads(tags["refsweep.files"])) == there - {"registered_model_meta"}
