"""What a sampler is: a pure function of its settings, the number of a trial and the trials so far.

Optuna's samplers write to the study they sample from (counters, grids, pickled optimisers) and keep state from one
trial to the next. So every trial gets a fresh Optuna sampler seeded by (search.seed, number), which sees a copy of
the study that is thrown away. What belongs to the trial (a grid's cell, a generation) is stored with it; what can be
recomputed is not.

A sampler is one file of this folder with one `Sampler`; its name is the file's.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """What a sampler may know of its sweep."""

    seed: int = 0
    startup: int | None = None  # random trials before a model; population of nsga2; None: the sampler's own default
    slots: int = 1  # trials that run at a time
    objectives: int = 1
    grid: Mapping[str, Sequence[Any]] | None = None  # every parameter's values


class Sampler(ABC):
    """Proposes the parameters of trials."""

    takes_grid: ClassVar[bool] = False  # needs `search.grid`; no other sampler is given one

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings

    @abstractmethod
    def for_trial(self, number: int) -> BaseSampler:
        """A fresh Optuna sampler that samples one trial. `number` counts the trials searched, from 0: a retry of a
        failed trial, which takes over its parameters, is not among them."""

    def visible(self, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        """The trials that the Optuna sampler sees, of those of the sweep, which stay as they are. A sampler that
        wants to show it other values or states returns changed copies."""
        return trials

    def problems(self) -> list[str]:
        """What is wrong with the settings for this sampler, each as `path: rule`."""
        grid = self.settings.grid
        if self.takes_grid != (grid is not None):
            return ["search: grid must be given with sampler grid, and with no other"]
        return []

    def seed_of(self, number: int) -> int:
        """The seed for one trial."""
        return seed_of(self.settings.seed, number)


def seed_of(seed: int, number: int) -> int:
    """A seed of 32 bits for one trial of a sweep; those of neighbours are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4])
