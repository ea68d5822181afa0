"""Hyperband (Li et al., arXiv 1603.06560) with asynchronous halving in each bracket."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .asha import best_at, judged, rung_at, rungs
from .base import Pruner, PrunerSettings, Values

GOLDEN_RATIO = 0.6180339887498949


class Hyperband(Pruner):
    """Halves among the trials of a bracket: bracket 0 from `min_epochs` on, the next from `eta` times as many on, and
    so on; the last not at all. A trial's number says in which bracket it is."""

    def should_prune(self, number: int, epoch: int, values: Mapping[int, Values]) -> bool:
        """See `Pruner`."""
        if not self.judges(epoch):
            return False
        s, order = self.settings, deal(self.settings)
        mine = order[number % len(order)]
        rung = rung_at(epoch, values[number], rungs(s.min_epochs * s.eta**mine, s.max_epochs, s.eta))
        if mine == brackets(s) - 1 or rung is None:
            return False
        rivals = {n: theirs for n, theirs in values.items() if order[n % len(order)] == mine}
        return number not in best_at(rung, rivals, s.eta, s.better, until=epoch)

    def judges(self, epoch: int) -> bool:
        """See `Pruner`: at the rungs of bracket 0, which has all of the others'."""
        return judged(epoch, self.settings)


def brackets(settings: PrunerSettings) -> int:
    """How many brackets there are: one for every power of eta from `min_epochs` up to `max_epochs`."""
    return int(math.log(settings.max_epochs / settings.min_epochs, settings.eta) + 1e-9) + 1


def deal(settings: PrunerSettings) -> list[int]:
    """The bracket of each trial of a round, by its number in the round.

    Each bracket gets its share, as many trials as Hyperband starts in it (algorithm 1), spread evenly over the round
    by a low-discrepancy order, not one bracket after the other.
    """
    count, eta = brackets(settings), settings.eta
    shares = [math.ceil(count * eta ** (count - 1 - s) / (count - s)) for s in range(count)]
    dealt = [s for s in range(count) for _ in range(shares[s])]
    return [dealt[i] for i in sorted(range(len(dealt)), key=lambda i: i * GOLDEN_RATIO % 1.0)]
