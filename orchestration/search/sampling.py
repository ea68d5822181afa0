"""Asking as a pure function: the next parameters follow from (spec, number, trials), from nothing else.

Optuna's samplers write to the study they sample from: counters, grids, pickled optimisers. So each ask gets a
fresh sampler seeded by (search.seed, number) and an in-memory copy of the study that is thrown away; what
belongs to the trial (a grid's cell, a generation) comes back with it, what a sampler can recompute does not.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
)
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from .tpe import GroupedTpe

SamplerName = Literal["tpe", "random", "qmc", "cmaes", "gp", "nsga2", "grid"]
Space = Callable[[Any], dict[str, Any]]
_RECOMPUTED = ("cma:optimizer",)  # attributes that are not kept: large and pickled


def seed_of(seed: int, number: int) -> int:
    """A sampler's seed for one trial."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])


class _Qmc(QMCSampler):
    """The n-th trial takes the n-th point; Optuna's counter would have to be written down."""

    number: int

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number


class _CmaEs(CmaEsSampler):
    """Finds the optimiser again by replaying finished generations; Optuna keeps it as a pickle in the trials."""

    study: optuna.Study
    space: dict[str, BaseDistribution]

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.study, self.space = study, search_space
        return super().sample_relative(study, trial, search_space)

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


class _Grid(GridSampler):
    """The n-th trial takes the n-th cell of the shuffled grid; Optuna's reads all trials' cells, successors' too."""

    number: int

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        study._storage.set_trial_system_attr(trial._trial_id, "grid_id", self.number)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        value = super().sample_independent(study, trial, param_name, param_distribution)
        if not param_distribution._contains(param_distribution.to_internal_repr(value)):
            raise ValueError(f"the grid's {param_name} must lie in the search space, got {value!r}")
        return value


def make_sampler(
    name: str,
    seed: int,
    number: int,
    *,
    startup: int | None,
    slots: int,
    grid: Mapping[str, Sequence[Any]] | None,
) -> BaseSampler:
    """A fresh sampler for one trial."""
    mine = seed_of(seed, number)
    with quiet():
        if name == "random":
            return RandomSampler(seed=mine)
        if name == "tpe":
            return GroupedTpe(seed=mine, n_startup_trials=10 if startup is None else startup, constant_liar=slots > 1)
        if name == "qmc":
            qmc = _Qmc(
                seed=seed,
                scramble=True,
                independent_sampler=RandomSampler(seed=mine),
            )
            qmc.number = number
            return qmc
        if name == "cmaes":
            return _CmaEs(
                seed=mine,
                n_startup_trials=1 if startup is None else startup,
                independent_sampler=RandomSampler(seed=mine),
                consider_pruned_trials=True,
            )
        if name == "gp":
            return GPSampler(
                seed=mine, n_startup_trials=10 if startup is None else startup, deterministic_objective=False
            )
        if name == "nsga2":
            return NSGAIISampler(seed=mine, population_size=50 if startup is None else max(2, startup))
        assert grid is not None
        cells = _Grid(grid, seed=seed)
        cells.number = number
        return cells


def grid_size(grid: Mapping[str, Sequence[Any]]) -> int:
    """How many cells a grid has."""
    size = 1
    for values in grid.values():
        size *= len(values)
    return size


class _Borrowed(InMemoryStorage):
    """A study of trials that share their contents with the ledger's: ten thousand are taken over in milliseconds,
    where deep copies take seconds. The ledger's stay as they are: what Optuna changes, it copies first."""

    def borrow(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Takes trials over, once, numbered in order; those that are not are copied and numbered."""
        ids = [t._trial_id for t in trials]
        numbered = all(t.number == n for n, t in enumerate(trials)) and len(set(ids)) == len(ids)
        mine = list(trials) if numbered else [_numbered(trial, n) for n, trial in enumerate(trials)]
        self._studies[study_id].trials = mine
        for trial in mine:
            self._trial_id_to_study_id_and_number[trial._trial_id] = (study_id, trial.number)
            if trial.state == TrialState.COMPLETE:
                self._update_cache(trial._trial_id, study_id)
        self._max_trial_id = max((t._trial_id for t in mine), default=-1)


def _numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    found = copy.copy(trial)
    found.number = found._trial_id = number
    return found


def ask(
    directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial], sampler: BaseSampler, space: Space
) -> tuple[FrozenTrial, dict[str, Any]]:
    """The next trial as a template to store, and the Config fields that the space gives for it.

    Raises InputError when the space refuses: a name that a grid lacks, a bound that is none.
    """
    storage = _Borrowed()
    with quiet():
        study = optuna.create_study(storage=storage, sampler=sampler, directions=list(directions))
        storage.borrow(study._study_id, trials)
        try:
            asked = study.ask()
            fields = space(asked)
        except (ValueError, TypeError) as error:
            raise InputError(f"the search space can't be sampled: {error}") from error
    template = storage.get_trial(asked._trial_id)
    for key in [k for k in template.system_attrs if k.startswith(_RECOMPUTED)]:
        del template.system_attrs[key]
    return template, fields


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's chatter about new studies and experimental parts."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


class PinnedTrial:
    """A trial in which some names keep a value: what the spec fixes is not suggested, nor written down."""

    def __init__(self, trial: Any, fixed: Mapping[str, Any]) -> None:
        self._trial, self._fixed = trial, fixed

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._trial, name)
        if not name.startswith("suggest_"):
            return method

        def suggest(parameter: str, *args: Any, **kwargs: Any) -> Any:
            return self._fixed[parameter] if parameter in self._fixed else method(parameter, *args, **kwargs)

        return suggest
