"""The record of a search space: where each parameter is searched, over all branches that random walks meet.

It is stored with a sweep and compared when the sweep goes on, so that one search never mixes two spaces: a parameter
whose choices were changed, or that stands for another since, would be compared with what it was.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from .asking import PinnedTrial, Space

WALKS, SEED = 500, 0
SpaceRecord = Mapping[str, Sequence[str]]  # per parameter its distributions in Optuna's JSON, sorted


def space_record(space: Space, fixed: Mapping[str, Any]) -> SpaceRecord:
    """The distributions met in `WALKS` walks of a random sampler, without what is fixed. Raises InputError for a space
    that refuses."""
    seen: dict[str, dict[int, BaseDistribution]] = {}
    walk = _Walk(random.Random(SEED), seen)
    pinned = PinnedTrial(walk, fixed)
    for number in range(WALKS):
        walk.begin(number)
        try:
            space(pinned)
        except optuna.TrialPruned:
            continue
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"the search space can't be sampled: {error}") from error
    return {
        name: sorted({distribution_to_json(kind) for kind in kinds.values()}) for name, kinds in sorted(seen.items())
    }


def changes(stored: SpaceRecord, now: SpaceRecord) -> list[str]:
    """What differs between two records, a line a parameter with old and new; empty when they are equal."""
    names = sorted({*stored, *now})
    return [
        f"{name}: {_listed(stored.get(name))} -> {_listed(now.get(name))}"
        for name in names
        if list(stored.get(name, ())) != list(now.get(name, ()))
    ]


def contradictions(trials: Sequence[FrozenTrial], now: SpaceRecord) -> list[str]:
    """Where trials of a sweep without a record were searched elsewhere, as `changes` has it."""
    known = {name: [json_to_distribution(kind) for kind in kinds] for name, kinds in now.items()}
    stored: dict[str, set[str]] = {}
    for trial in trials:
        for name, kind in trial.distributions.items():
            if not any(_compatible(kind, other) for other in known.get(name, ())):
                stored.setdefault(name, set()).add(distribution_to_json(kind))
    return [f"{name}: {_listed(sorted(kinds))} -> {_listed(now.get(name))}" for name, kinds in sorted(stored.items())]


def _compatible(one: BaseDistribution, other: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(one, other)
    except ValueError:
        return False
    return True


_SHOWN = 4  # distributions of one parameter in a message


def _listed(kinds: Sequence[str] | None) -> str:
    if not kinds:
        return "not searched"
    shown = [_described(json_to_distribution(kind)) for kind in kinds[:_SHOWN]]
    return " or ".join(shown) + (f" or {len(kinds) - _SHOWN} more" if len(kinds) > _SHOWN else "")


def _described(kind: BaseDistribution) -> str:
    if isinstance(kind, CategoricalDistribution):
        return f"one of {list(kind.choices)}"
    assert isinstance(kind, FloatDistribution | IntDistribution)
    what = "integer" if isinstance(kind, IntDistribution) else "number"
    step = f" in steps of {kind.step:g}" if kind.step not in (None, 1) else ""
    return f"{what} {kind.low:g} .. {kind.high:g}{' (log)' if kind.log else ''}{step}"


class _Walk:
    """A trial that draws every parameter at random and notes where it is searched. Optuna's own takes 2 ms a walk of
    twenty parameters, this one a hundredth of that."""

    def __init__(self, draw: random.Random, seen: dict[str, dict[int, BaseDistribution]]) -> None:
        self._draw, self._seen, self._number = draw, seen, 0
        self._made: dict[Any, BaseDistribution] = {}  # by what was asked: making one costs more than drawing
        self._params: dict[str, Any] = {}
        self._kinds: dict[str, BaseDistribution] = {}
        self._notes: dict[str, Any] = {}

    def begin(self, number: int) -> None:
        """The next walk."""
        self._number, self._params, self._kinds, self._notes = number, {}, {}, {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        key = (name, low, high, step, log)
        kind = self._made.get(key) or self._made.setdefault(key, FloatDistribution(low, high, log=log, step=step))
        assert isinstance(kind, FloatDistribution)
        if step is not None:
            steps = round((kind.high - kind.low) / step)
            return float(self._take(name, kind, kind.low + step * int(self._draw.random() * (steps + 1))))
        share = self._draw.random()
        value = low * (high / low) ** share if log else low + (high - low) * share
        return float(self._take(name, kind, min(max(value, low), high)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        key = (name, low, high, step, log, "int")
        kind = self._made.get(key) or self._made.setdefault(key, IntDistribution(low, high, log=log, step=step))
        assert isinstance(kind, IntDistribution)
        share = self._draw.random()
        value = low * ((high + 1) / low) ** share if log else low + step * int(share * ((kind.high - low) // step + 1))
        return int(self._take(name, kind, min(int(value), kind.high)))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        key = (name, repr(choices))
        kind = self._made.get(key) or self._made.setdefault(key, CategoricalDistribution(choices))
        assert isinstance(kind, CategoricalDistribution)
        return self._take(name, kind, kind.choices[int(self._draw.random() * len(kind.choices))])

    def _take(self, name: str, kind: BaseDistribution, value: Any) -> Any:
        """What is drawn, or what the name has got in this walk, as Optuna does."""
        if name in self._params:
            return self._params[name]
        self._params[name], self._kinds[name] = value, kind
        self._seen.setdefault(name, {})[id(kind)] = kind
        return value

    def report(self, value: float, step: int) -> None:
        pass

    def should_prune(self) -> bool:
        return False

    def set_user_attr(self, key: str, value: Any) -> None:
        self._notes[key] = value

    def set_constraint(self, key: str, value: float) -> None:
        pass

    @property
    def params(self) -> dict[str, Any]:
        return self._params

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return self._kinds

    @property
    def user_attrs(self) -> dict[str, Any]:
        return self._notes

    @property
    def datetime_start(self) -> None:
        return None

    @property
    def constraints(self) -> dict[str, float]:
        return {}

    @property
    def number(self) -> int:
        return self._number
