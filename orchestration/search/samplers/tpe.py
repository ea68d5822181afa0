"""The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011; arXiv 2304.11127), multivariate (as in BOHB,
arXiv 1807.01774): Optuna's, bit for bit, but it looks at each trial once an ask.

With `group=True` Optuna samples each group of parameters that occur together by itself, and for each it sorts all
trials into good and bad, and reads all their parameters, anew: for a space of five groups and 1,000 trials most of
an ask. Here the groups share that. A test compares the answers with Optuna's own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._tpe.sampler import (
    _get_infeasible_trial_score,
    _get_pruned_trial_score,
    _split_trials,
    default_gamma,
    default_gamma_multiobjective,
)
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace, _SearchSpaceGroup
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .base import Sampler

CONSTRAINTS = "constraints"  # how attributes that mark infeasible trials begin
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Tpe(Sampler):
    """Starts after `startup` random trials, 10 by default. With several slots, running trials count as bad ones, so
    that it does not propose the same again (Optuna's constant liar)."""

    def for_trial(self, number: int) -> BaseSampler:
        """See `Sampler`."""
        startup = self.settings.startup
        return GroupedTpe(
            seed=self.seed_of(number),
            n_startup_trials=10 if startup is None else startup,
            constant_liar=self.settings.slots > 1,
        )


class GroupedTpe(TPESampler):
    """For one ask: it keeps what it has read of the trials."""

    def __init__(self, *, seed: int, n_startup_trials: int, constant_liar: bool) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=n_startup_trials,
            multivariate=True,
            group=True,
            constant_liar=constant_liar,
        )
        self._group_decomposed_search_space = _Groups(include_pruned=True)
        self._halves: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None
        self._params: dict[int, list[dict[str, Any]]] = {}  # by the half's identity

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's, but that trials are split once."""
        if self._halves is None:
            self._halves = self._split(study, trial)
        below = self._build_parzen_estimator(study, search_space, self._halves[0], handle_below=True)
        above = self._build_parzen_estimator(study, search_space, self._halves[1], handle_below=False)
        samples = below.sample(self._rng.rng, self._n_ei_candidates)
        best = TPESampler._compare(samples, self._compute_acquisition_func(samples, below, above))
        return {name: kind.to_external_repr(best[name]) for name, kind in search_space.items()}

    def _split(self, study: optuna.Study, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        states = (*_DONE, TrialState.RUNNING) if self._constant_liar else _DONE
        trials = [t for t in study._get_trials(deepcopy=False, states=states) if t.number != trial.number]
        done = sum(t.state != TrialState.RUNNING for t in trials)
        if len(study.directions) > 1:
            return _split_trials(study, trials, default_gamma_multiobjective(done))
        return split(study, trials, default_gamma(done))

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: optuna.Study
    ) -> dict[str, np.ndarray]:
        """The parameters of those trials that have them all, by name, as numbers."""
        params = self._params.get(id(trials))
        if params is None:
            params = self._params[id(trials)] = [self._get_params(t, study) for t in trials]
        having = [p for p in params if search_space.keys() <= p.keys()]
        return {name: _numbers(kind, [p[name] for p in having]) for name, kind in search_space.items()}


def split(study: optuna.Study, trials: list[FrozenTrial], count: int) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The best `count` trials and all others, both by number, as Optuna splits them for one objective: complete ones
    before pruned ones before infeasible ones. It sorts all of each kind; the best are few."""
    kinds: dict[str, list[FrozenTrial]] = {"complete": [], "pruned": [], "infeasible": []}
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            continue
        marked = any(key.startswith(CONSTRAINTS) for key in trial.system_attrs)
        if marked and _get_infeasible_trial_score(trial) > 0:
            kinds["infeasible"].append(trial)
        else:
            kinds["complete" if trial.state == TrialState.COMPLETE else "pruned"].append(trial)
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    better: dict[str, Callable[[FrozenTrial], Any]] = {
        "complete": lambda trial: sign * (trial.value or 0.0),
        "pruned": lambda trial: _get_pruned_trial_score(trial, study),
        "infeasible": _get_infeasible_trial_score,
    }
    best: set[int] = set()
    for kind, candidates in kinds.items():
        best.update(t.number for t in heapq.nsmallest(count - len(best), candidates, key=better[kind]))
    return [t for t in trials if t.number in best], [t for t in trials if t.number not in best]


def _numbers(kind: BaseDistribution, values: list[Any]) -> np.ndarray:
    if isinstance(kind, FloatDistribution):
        return np.asarray(values, dtype=float)
    if isinstance(kind, CategoricalDistribution):
        known: dict[tuple[type, Any], float] = {}
        for value in values:
            if (type(value), value) not in known:
                known[type(value), value] = kind.to_internal_repr(value)
        return np.asarray([known[type(v), v] for v in values])
    return np.asarray([kind.to_internal_repr(v) for v in values])


class _Groups(_GroupDecomposedSearchSpace):
    """Groups of parameters that occur together. A trial with the same parameters as an earlier one splits none."""

    def calculate(self, study: optuna.Study, use_cache: bool = False) -> _SearchSpaceGroup:
        seen: set[tuple[str, ...]] = set()
        for trial in study._get_trials(deepcopy=False, states=_DONE, use_cache=use_cache):
            names = tuple(trial.distributions)
            if names not in seen:
                seen.add(names)
                self._search_space.add_distributions(trial.distributions)
        return self._search_space
