"""A packed data set that tests of packing and of reading share."""

from __future__ import annotations

from pathlib import Path

import pytest
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.storage.store import Store


@pytest.fixture(scope="session")
def small() -> Packing:
    """Many shards, and groups of a few frames."""
    return Packing(shard_mb=0.7, group_mb=0.1)


@pytest.fixture(scope="session")
def packed(made: Path, small: Packing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made data set, packed as it is; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(Store(str(made)), Store(str(out)), small)
    return out
