"""Every combination of given values, each once, in a shuffled order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler
from optuna.trial import FrozenTrial

from ...spec.schema import grid_size
from .base import Sampler


class Grid(Sampler):
    """The values are `search.grid`."""

    takes_grid = True

    def for_trial(self, number: int) -> BaseSampler:
        """See `Sampler`."""
        assert self.settings.grid is not None, "its absence is a problem"
        return NthCell(self.settings.grid, self.settings.seed, number)

    def problems(self) -> list[str]:
        """See `Sampler`."""
        grid = self.settings.grid
        if grid is not None and not (grid and grid_size(grid)):
            return ["search: grid must hold at least one value of every parameter"]
        return super().problems()


class NthCell(GridSampler):
    """Takes the n-th cell of the shuffled grid; Optuna's takes one that no trial has, and counts retries too."""

    def __init__(self, grid: Mapping[str, Sequence[Any]], seed: int, number: int) -> None:
        super().__init__(grid, seed=seed)
        self.number = number

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Notes the cell, which Optuna's looks up."""
        study._storage.set_trial_system_attr(trial._trial_id, "grid_id", self.number)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The cell's value. Raises ValueError for a name that the grid lacks or a value outside the space."""
        value = super().sample_independent(study, trial, param_name, param_distribution)
        if not param_distribution._contains(param_distribution.to_internal_repr(value)):
            raise ValueError(f"the grid's {param_name} must lie in the search space, got {value!r}")
        return value
