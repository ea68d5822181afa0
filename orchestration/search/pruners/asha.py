"""Asynchronous successive halving, by stopping (Li et al., arXiv 1810.05934).

A trial is judged at a rung when it is first evaluated there or after it, once: with `evaluate_every: 2` the rung at
epoch 3 is judged at epoch 4. It is compared with the trials that have been evaluated at the rung or after it by then,
each by its own first value there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .base import Pruner, PrunerSettings, Values


class Asha(Pruner):
    """At a rung a trial goes on when it is among the best 1/eta of those that have reached it; the first one there
    goes on."""

    def should_prune(self, number: int, epoch: int, values: Mapping[int, Values]) -> bool:
        """See `Pruner`."""
        s = self.settings
        if not self.judges(epoch):
            return False
        rung = rung_at(epoch, values[number], rungs(s.min_epochs, s.max_epochs, s.eta))
        return rung is not None and number not in best_at(rung, values, s.eta, s.better, until=epoch)

    def judges(self, epoch: int) -> bool:
        """See `Pruner`: at rungs only."""
        return judged(epoch, self.settings)


def rungs(min_epochs: int, max_epochs: int, eta: int) -> list[int]:
    """Epochs at which halving compares: min, min * eta, ... below max."""
    epochs, rung = [], min_epochs
    while rung < max_epochs:
        epochs.append(rung)
        rung *= eta
    return epochs


def judged(epoch: int, settings: PrunerSettings) -> bool:
    """Whether any trial may be judged after an epoch: the first that is evaluated at or after some rung."""
    s, every = settings, settings.evaluate_every
    if every is None:  # trials differ
        return s.min_epochs <= epoch < s.max_epochs
    return epoch < s.max_epochs and epoch in {-(-r // every) * every for r in rungs(s.min_epochs, s.max_epochs, s.eta)}


def rung_at(epoch: int, values: Values, rungs: Sequence[int]) -> int | None:
    """The rung that a trial with these values is judged at after an epoch: the last one since it was evaluated before,
    None where it has passed none since then."""
    before = max((e for e in values if e < epoch), default=0)
    return max((rung for rung in rungs if before < rung <= epoch), default=None)


def best_at(rung: int, values: Mapping[int, Values], eta: int, better: int, *, until: int | None = None) -> list[int]:
    """Numbers of the best 1/eta of the trials that were evaluated in rung..until, by their first value there, at least
    one. `until` is the rung itself where it is not given."""
    last = rung if until is None else until
    firsts = {n: min((e for e in theirs if rung <= e <= last), default=None) for n, theirs in values.items()}
    reached = {n: better * values[n][epoch] for n, epoch in firsts.items() if epoch is not None}
    # equal values: the earlier trial ranks first
    ranked = sorted(reached, key=lambda n: (-reached[n], n))
    return ranked[: max(1, len(reached) // eta)]
