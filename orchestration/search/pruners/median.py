"""The median rule (Golovin et al., "Google Vizier", KDD 2017, section 3.2.2)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from .base import Pruner, Values

LEAST_OTHERS = 4  # that must have come as far


class Median(Pruner):
    """Ends a trial whose best value so far is worse than the median of the others' means up to that epoch."""

    def should_prune(self, number: int, epoch: int, values: Mapping[int, Values]) -> bool:
        """See `Pruner`."""
        if not self.judges(epoch):
            return False
        others = [_mean_until(theirs, epoch) for n, theirs in values.items() if n != number and epoch in theirs]
        if len(others) < LEAST_OTHERS:
            return False
        better = self.settings.better
        best = max(better * value for e, value in values[number].items() if e <= epoch)
        return best < statistics.median(better * mean for mean in others)


def _mean_until(values: Values, epoch: int) -> float:
    return statistics.fmean(value for e, value in sorted(values.items()) if e <= epoch)
