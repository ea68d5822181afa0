"""Asynchronous successive halving, by stopping (Li et al., arXiv 1810.05934)."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Pruner, Values


class Asha(Pruner):
    """At a rung a trial goes on when it is among the best 1/eta of those that have reached it; the first one there
    goes on."""

    def should_prune(self, number: int, epoch: int, values: Mapping[int, Values]) -> bool:
        """See `Pruner`."""
        return self.judges(epoch) and number not in best_at(epoch, values, self.settings.eta, self.settings.better)

    def judges(self, epoch: int) -> bool:
        """See `Pruner`: at rungs only."""
        return epoch in rungs(self.settings.min_epochs, self.settings.max_epochs, self.settings.eta)


def rungs(min_epochs: int, max_epochs: int, eta: int) -> list[int]:
    """Epochs at which halving compares: min, min * eta, ... below max."""
    epochs, rung = [], min_epochs
    while rung < max_epochs:
        epochs.append(rung)
        rung *= eta
    return epochs


def best_at(epoch: int, values: Mapping[int, Values], eta: int, better: int) -> list[int]:
    """Numbers of the best 1/eta of the trials that have reached an epoch, by their values there, at least one."""
    reached = {n: better * theirs[epoch] for n, theirs in values.items() if epoch in theirs}
    # equal values: the earlier trial ranks first
    ranked = sorted(reached, key=lambda n: (-reached[n], n))
    return ranked[: max(1, len(reached) // eta)]
