"""Pruners: pure functions of intermediate values, which write nothing and remember nothing.

The same values give the same verdict in any process at any time, so that a resumed sweep prunes as an
undisturbed one. (Optuna's own write marks before their verdict, hash the study's name, or cache.)

Values are objective values by epoch, from 1; `better` is +1 where larger is better, else -1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

PrunerName = Literal["asha", "hyperband", "median", "none"]
Values = Mapping[int, float]  # epoch -> value


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How to prune."""

    kind: str = "asha"
    min_epochs: int = 1  # a trial is safe before
    eta: int = 3  # of so many at a rung one goes on
    max_epochs: int = 1  # the last epoch is never pruned at
    better: int = 1


def should_prune(how: Pruning, number: int, epoch: int, trials: Mapping[int, Values]) -> bool:
    """Whether trial `number` ends after `epoch`, given the values of all trials, its own included."""
    if not judges(how, epoch):
        return False
    if how.kind == "median":
        return _median(how, number, epoch, trials)
    if how.kind == "hyperband":
        return _hyperband(how, number, epoch, trials)
    return _asha(how, number, epoch, trials, how.min_epochs)


def judges(how: Pruning, epoch: int) -> bool:
    """Whether any trial may end after `epoch`, whatever the values are: if not, nobody need gather them."""
    if how.kind == "none" or epoch < how.min_epochs or epoch >= how.max_epochs:
        return False
    return how.kind == "median" or epoch in rungs(how.min_epochs, how.max_epochs, how.eta)


def rungs(min_epochs: int, max_epochs: int, eta: int) -> list[int]:
    """Epochs at which halving compares: min, min * eta, ... below max."""
    found, rung = [], min_epochs
    while rung < max_epochs:
        found.append(rung)
        rung *= eta
    return found


def _asha(how: Pruning, number: int, epoch: int, trials: Mapping[int, Values], first: int) -> bool:
    """Asynchronous successive halving (arXiv 1810.05934): at a rung a trial goes on when it is among the best
    1/eta of those that have reached it; the first one there goes on."""
    if epoch not in rungs(first, how.max_epochs, how.eta):
        return False
    there = {n: how.better * values[epoch] for n, values in trials.items() if epoch in values}
    keep = max(1, len(there) // how.eta)
    # equal values: the earlier trial ranks first
    ranked = sorted(there, key=lambda n: (-there[n], n))
    return number not in ranked[:keep]


def bracket(how: Pruning, number: int) -> int:
    """The bracket of a trial in Hyperband (arXiv 1603.06560): 0 halves from `min_epochs` on, the last not at all.

    Trials are dealt so that each bracket gets its share: as many as a full round starts in it.
    """
    count = brackets(how)
    shares = [math.ceil(count * how.eta ** (count - 1 - s) / (count - s)) for s in range(count)]
    dealt = [s for s in range(count) for _ in range(shares[s])]
    # spread: every round of len(dealt) trials visits the brackets evenly, not one after the other
    order = sorted(range(len(dealt)), key=lambda i: _spread(i, len(dealt)))
    return dealt[order[number % len(dealt)]]


def brackets(how: Pruning) -> int:
    """How many brackets Hyperband has."""
    return int(math.log(how.max_epochs / how.min_epochs, how.eta) + 1e-9) + 1


def _spread(index: int, count: int) -> float:
    """A fixed low-discrepancy order of 0..count-1."""
    return (index * 0.6180339887498949) % 1.0


def _hyperband(how: Pruning, number: int, epoch: int, trials: Mapping[int, Values]) -> bool:
    mine = bracket(how, number)
    if mine == brackets(how) - 1:
        return False
    rivals = {n: v for n, v in trials.items() if bracket(how, n) == mine}
    return _asha(how, number, epoch, rivals, how.min_epochs * how.eta**mine)


def _median(how: Pruning, number: int, epoch: int, trials: Mapping[int, Values]) -> bool:
    """A trial ends when its best value so far is worse than the median of the others' means up to that epoch
    (Golovin et al., Google Vizier, 2017). At least four others must have come as far."""
    others = [_mean_until(values, epoch) for n, values in trials.items() if n != number and epoch in values]
    if len(others) < 4:
        return False
    best = max(how.better * v for e, v in trials[number].items() if e <= epoch)
    return best < statistics.median(how.better * v for v in others)


def _mean_until(values: Values, epoch: int) -> float:
    return statistics.fmean(_upto(values, epoch))


def _upto(values: Values, epoch: int) -> Iterable[float]:
    return [v for e, v in sorted(values.items()) if e <= epoch]
