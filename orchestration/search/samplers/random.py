"""Independent draws from the space (Bergstra and Bengio, JMLR 2012)."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from .base import Sampler


class Random(Sampler):
    """Looks at no trial."""

    def for_trial(self, number: int) -> BaseSampler:
        """See `Sampler`."""
        return RandomSampler(seed=self.seed_of(number))
