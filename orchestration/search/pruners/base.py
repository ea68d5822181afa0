"""What a pruner is: a pure function of intermediate values, which writes nothing and remembers nothing.

The same values give the same verdict in any process at any time, so that a resumed sweep prunes as an undisturbed
one. (Optuna's own write marks before their verdict, hash the study's name, or cache.)

A pruner is one file of this folder with one `Pruner`; its name is the file's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

Values = Mapping[int, float]  # the objective of one trial by epoch, from 1; larger or smaller is better


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunerSettings:
    """What a pruner may know of its sweep."""

    min_epochs: int = 1  # a trial is safe before
    eta: int = 3  # of so many at a rung one goes on
    max_epochs: int = 1  # of a whole trial: the last epoch is never pruned at
    evaluate_every: int | None = 1  # epochs; the last one always is; None: not the same for all trials
    better: int = 1  # +1 where larger values are better, else -1
    objectives: int = 1


class Pruner(ABC):
    """Ends trials early."""

    def __init__(self, settings: PrunerSettings) -> None:
        self.settings = settings

    @abstractmethod
    def should_prune(self, number: int, epoch: int, values: Mapping[int, Values]) -> bool:
        """Whether trial `number` ends after `epoch`, given the values of all trials by their numbers, its own
        included. False wherever `judges` is; later epochs of any trial count for nothing; of equal trials the one
        with the smaller number is the better."""

    def judges(self, epoch: int) -> bool:
        """Whether any trial may end after `epoch`, whatever the values are: if not, nobody need gather them."""
        return self.settings.min_epochs <= epoch < self.settings.max_epochs

    def problems(self) -> list[str]:
        """What is wrong with the settings for this pruner, each as `path: rule, got value`."""
        if self.settings.objectives > 1:
            name = type(self).__module__.rpartition(".")[2]
            return [f"search.pruner: must be none with several objectives, got {name}"]
        return []
