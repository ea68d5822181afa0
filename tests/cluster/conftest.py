"""A cluster of three hosts with real servers, for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from refsweep.cluster.local import LocalCluster
from refsweep.cluster.programs import MissingError


def missing(reason: str) -> NoReturn:
    """Skips a test for what the machine lacks; where nothing may be skipped that is a failure."""
    if os.environ.get("REFSWEEP_NO_SKIPS") == "1":
        pytest.fail(f"{reason}; REFSWEEP_NO_SKIPS=1 allows no skip")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The cluster, as the test before left it."""
    try:
        made = LocalCluster(tmp_path_factory.mktemp("cluster"), hosts=3)
    except MissingError as error:
        missing(str(error))
    with made:
        yield made


@pytest.fixture
def cluster(running: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    """The cluster, whole: every host is up, every server answers, and this process has its settings."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    running.mend()
    return running


@pytest.fixture
def partitions(cluster: LocalCluster) -> LocalCluster:
    """The cluster, where hosts can be cut off."""
    if not cluster.namespaces:
        missing("a partition needs network namespaces: root, and `ip` (iproute2)")
    return cluster
