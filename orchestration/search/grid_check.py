"""What is wrong with a grid's values, by name and all at once: each cell is walked through the search space."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ...datasets.problems import InputError
from ...trainables import coercion, discovery
from ..spec.schema import SweepSpec, grid_size
from .spaces import range_in_words, search_space

WALKED = 2000  # cells, of a larger grid as many as hold each value at least once


def grid_problems(spec: SweepSpec) -> list[str]:
    """Names that the search space does not know or that are fixed as well, names that are missing, values that stand
    twice or lie outside, and cells that give no Config; each `search.grid.NAME: problem`. `fixed` must be right by
    itself, and every parameter of the grid have a value."""
    grid = spec.search.grid or {}
    module, walked = search_space(spec.trainable), _Walked()
    config = discovery.load_config(spec.trainable)
    refused: dict[str, None] = {}  # in the order of finding
    for cell in _cells(grid):
        try:
            fields = module.space(_Cell(cell, spec.fixed, walked))
            given = {"seed": spec.search.seed, **module.POSTHOC, **fields, **spec.fixed}
            coercion.make_config(config, given)
        except InputError as error:
            refused.update(dict.fromkeys(str(error).splitlines()))
        except (ValueError, TypeError, KeyError, AttributeError):  # a wrong value, which is said by name
            continue
    lines = [f"search.grid.{name}: {line}" for name in grid for line in _of_one(name, grid[name], spec, walked)]
    missing = sorted(walked.missing)
    if missing:
        lines.append(f"search.grid: must hold every parameter that is not fixed, {', '.join(missing)} are missing")
    return lines or [f"search.grid: {line}" for line in refused]


def _of_one(name: str, values: Sequence[Any], spec: SweepSpec, walked: _Walked) -> Iterator[str]:
    if name in spec.fixed:
        yield f"must not be fixed as well, to {spec.fixed[name]!r}"
    elif name not in walked.asked:
        known = ", ".join(sorted(walked.asked | walked.missing)) or "none with these values"
        yield f"must be a parameter of {spec.trainable}'s search space: {known}"
    outside = walked.outside.get(name, {})
    for shown, allowed in outside.items():
        yield f"must lie in {allowed}, got {shown}"
    seen: list[Any] = []
    for value in values:
        if any(_equal(value, other) for other in seen):
            yield f"must hold each value once, got {value!r} again"
        seen.append(value)


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _cells(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if grid_size(grid) <= WALKED:
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))
        return
    for i in range(max(map(len, grid.values()))):
        yield {name: values[i % len(values)] for name, values in grid.items()}
    rng = random.Random(0)
    for _ in range(WALKED):
        yield {name: rng.choice(values) for name, values in grid.items()}


class _Walked:
    """What the search space asked of the cells."""

    def __init__(self) -> None:
        self.asked: set[str] = set()  # of what the grid has
        self.missing: set[str] = set()
        self.outside: dict[str, dict[str, str]] = {}  # name -> value in words -> what is allowed


class _Cell(optuna.trial.FixedTrial):
    """A trial whose values are those of a cell, and of what is fixed; notes what the space asks for."""

    def __init__(self, cell: Mapping[str, Any], fixed: Mapping[str, Any], walked: _Walked) -> None:
        super().__init__(dict(cell))
        self._cell, self._fixed, self._walked = cell, fixed, walked

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._fixed:
            return self._fixed[name]
        if name not in self._cell:
            self._walked.missing.add(name)
            return _any_of(distribution)
        self._walked.asked.add(name)
        value = self._cell[name]
        if not _within(value, distribution):
            self._walked.outside.setdefault(name, {})[repr(value)] = range_in_words(distribution)
            return _any_of(distribution)
        return value


def _within(value: Any, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(_equal(value, choice) for choice in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(distribution._contains(distribution.to_internal_repr(value)))


def _any_of(distribution: BaseDistribution) -> Any:
    """A value that is allowed, so that the rest of the space can be walked."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low
