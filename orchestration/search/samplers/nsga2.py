"""NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6(2), 2002), for several objectives above all."""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIISampler

from .base import Sampler


class Nsga2(Sampler):
    """Generations of `startup` trials, 50 by default, at least 2."""

    def for_trial(self, number: int) -> BaseSampler:
        """See `Sampler`."""
        startup = self.settings.startup
        return NSGAIISampler(seed=self.seed_of(number), population_size=50 if startup is None else max(2, startup))
