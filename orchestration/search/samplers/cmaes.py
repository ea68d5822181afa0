"""CMA-ES (Hansen, arXiv 1604.00772) over the numeric parameters that all trials have; others are drawn at random."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from .base import Sampler


class CmaEs(Sampler):
    """Starts after `startup` random trials, 1 by default."""

    def for_trial(self, number: int) -> BaseSampler:
        """See `Sampler`."""
        startup = self.settings.startup
        return ReplayedCmaEs(
            seed=self.seed_of(number),
            n_startup_trials=1 if startup is None else startup,
            independent_sampler=RandomSampler(seed=self.seed_of(number)),
            consider_pruned_trials=True,
        )

    def problems(self) -> list[str]:
        """See `Sampler`."""
        several = "search.sampler: cmaes takes one objective; with several use tpe, nsga2, gp, qmc, random or grid"
        return [*super().problems(), *([several] if self.settings.objectives > 1 else [])]


class ReplayedCmaEs(CmaEsSampler):
    """Finds the optimiser again by replaying finished generations; Optuna keeps it as a pickle in the trials."""

    study: optuna.Study
    space: dict[str, BaseDistribution]

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's; what to replay on is kept."""
        self.study, self.space = study, search_space
        return super().sample_relative(study, trial, search_space)

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        return {}  # no attribute holds the pickle

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        from optuna._transform import _SearchSpaceTransform

        if not self.space:
            return None
        transform = _SearchSpaceTransform(self.space, transform_step=True, transform_0_1=True)
        optimiser = self._init_optimizer(transform, self.study.direction)
        sign = 1 if self.study.direction == StudyDirection.MINIMIZE else -1
        while True:
            done = self._get_solution_trials(completed_trials, optimiser.generation)[: optimiser.population_size]
            if len(done) < optimiser.population_size or any(set(t.params) < set(self.space) for t in done):
                return optimiser
            later = self._get_solution_trials(completed_trials, optimiser.generation + 1)
            if not later:
                return optimiser  # the base class tells it this generation
            optimiser.tell(
                [(transform.transform({k: t.params[k] for k in self.space}), sign * (t.value or 0.0)) for t in done]
            )
