"""Points of a scrambled Sobol sequence (Sobol, 1967), which cover the space more evenly than random ones.

A parameter that the first trials lack, because it depends on a choice, is drawn at random.
"""

from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler

from .base import Sampler


class Qmc(Sampler):
    """One sequence a sweep, of which each trial takes a point."""

    def for_trial(self, number: int) -> BaseSampler:
        """See `Sampler`."""
        return NthPoint(self.settings.seed, number, RandomSampler(seed=self.seed_of(number)))


class NthPoint(QMCSampler):
    """Takes the n-th point; Optuna's reads from a counter in the study which one it takes, and writes it there."""

    def __init__(self, seed: int, number: int, independent: BaseSampler) -> None:
        super().__init__(seed=seed, scramble=True, independent_sampler=independent)
        self.number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number
