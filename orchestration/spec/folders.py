"""Where a sweep and its trials keep checkpoints."""

from __future__ import annotations

from ...datasets.storage.store import Store
from .schema import SweepSpec


def sweep_folder(spec: SweepSpec) -> Store:
    """Where a sweep's trials keep their checkpoints, and the mark that stops them."""
    return Store(spec.storage).child(spec.name)


def trial_folder(spec: SweepSpec, number: int) -> Store:
    """Where one trial keeps its checkpoints."""
    return sweep_folder(spec).child(str(number))
