"""Every trial trains to its last epoch."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Pruner, Values


class NoPruner(Pruner):
    """Ends none."""

    def should_prune(self, number: int, epoch: int, values: Mapping[int, Values]) -> bool:
        """See `Pruner`."""
        return False

    def judges(self, epoch: int) -> bool:
        """See `Pruner`."""
        return False

    def problems(self) -> list[str]:
        """See `Pruner`."""
        return []
