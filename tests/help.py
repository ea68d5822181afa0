"""Small things that several tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.spec.schema import make_spec
from refsweep.search_spaces import toy


def tree(root: Path) -> dict[str, bytes]:
    """The content of every file of a folder, by path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def frame_paths(root: Path) -> list[str]:
    """Paths of the frames of a Refer-KITTI data set in single files."""
    return [str(p.relative_to(root)) for p in sorted((root / "KITTI/training/image_02").rglob("*.png"))]


def toy_driver(folder: Path, *, slots: int = 2, **search: Any) -> Driver:
    """Of a new sweep `s` of toy trials of four epochs that minimises the loss, with the lease of its ledger."""
    spec = make_spec(
        {
            "name": "s",
            "trainable": "toy",
            "data": "none",
            "storage": str(folder),
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": 8, "sampler": "random", "eta": 2, **search},
            "fixed": {"epochs": 4},
        }
    )
    ledger = Ledger.create(spec.ledger_url, "s", ["min"], spec.as_json())
    ledger.take_lease()
    return Driver(spec, ledger, toy.space, posthoc={}, data=None, fingerprint="none", slots=slots)
