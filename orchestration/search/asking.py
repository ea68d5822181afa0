"""Asking: the next trial's parameters follow from the sampler's settings, its number and the trials, from nothing else.

The study that Optuna samples from is a copy in memory that is thrown away: its samplers write to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from ..ledger.quiet import quiet
from .samplers.base import Sampler

Space = Callable[[Any], dict[str, Any]]  # from an Optuna trial to Config fields


def propose(
    sampler: Sampler, number: int, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial], space: Space
) -> tuple[FrozenTrial, dict[str, Any]]:
    """The next trial of a sweep as a template to store, and the Config fields that the space gives for it. `number`
    counts the trials searched (see `Sampler.for_trial`); `trials` are all of the ledger, which stay as they are.

    Raises InputError when the space refuses: a name that a grid lacks, a bound that is none.
    """
    with quiet():
        chosen = sampler.for_trial(number)
    return ask(directions, sampler.visible(trials), chosen, space)


def ask(
    directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial], sampler: BaseSampler, space: Space
) -> tuple[FrozenTrial, dict[str, Any]]:
    """As `propose`, by a given Optuna sampler that sees all `trials`."""
    storage = _BorrowedStorage()
    with quiet():
        study = optuna.create_study(storage=storage, sampler=sampler, directions=list(directions))
        storage.borrow(study._study_id, trials)
        try:
            asked = study.ask()
            fields = space(asked)
        except (ValueError, TypeError) as error:
            raise InputError(f"the search space can't be sampled: {error}") from error
    return storage.get_trial(asked._trial_id), fields


class PinnedTrial:
    """An Optuna trial in which some parameters have a given value: what the spec fixes is neither suggested nor
    stored. Everything else is the trial's own."""

    def __init__(self, trial: Any, fixed: Mapping[str, Any]) -> None:
        self._trial, self._fixed = trial, fixed

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._trial, name)
        if not name.startswith("suggest_"):
            return method

        def suggest(parameter: str, *args: Any, **kwargs: Any) -> Any:
            return self._fixed[parameter] if parameter in self._fixed else method(parameter, *args, **kwargs)

        return suggest


class _BorrowedStorage(InMemoryStorage):
    """A study in memory whose trials share their contents with the ledger's: ten thousand are taken over in
    milliseconds, where deep copies take seconds. The ledger's stay as they are: what Optuna changes, it copies first.
    """

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
    numbered = copy.copy(trial)
    numbered.number = numbered._trial_id = number
    return numbered
