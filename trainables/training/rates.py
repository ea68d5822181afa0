"""Sets the learning rates of an optimiser's groups, each by its own schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch

from ...datasets.problems import InputError
from .plateau import Plateau
from .schedules import LrSchedule, Position, lr_factor, steps_per_epoch

Metric = tuple[str, Literal["max", "min"]]


class LearningRates:
    """The learning rates of an optimiser. What its groups have when this is made is their highest."""

    def __init__(
        self, optimiser: torch.optim.Optimizer, schedules: Sequence[LrSchedule], objective: tuple[str, str] | None
    ) -> None:
        """`schedules`: one a group. `objective`: (metric, `max` or `min`), which plateau watches where the Config names
        no other."""
        self._optimiser, self._schedules = optimiser, schedules
        self._peaks: list[float] = [group["lr"] for group in optimiser.param_groups]
        self._watched = [_watched(schedule, objective) for schedule in schedules]
        self._plateaus = [Plateau() for _ in schedules]

    def check(self, batches: int) -> None:
        """Raises InputError when a training of so many batches an epoch can't follow its schedules: a warm-up in steps
        is longer than all of it, or there is no figure for plateau to watch."""
        for schedule, metric in zip(self._schedules, self._watched, strict=True):
            steps = schedule.epochs * steps_per_epoch(schedule, batches)
            if schedule.warmup_unit == "steps" and schedule.warmup > steps:
                raise InputError(f"warmup must be in 0..{steps}, the steps of the training, got {schedule.warmup:g}")
            if schedule.schedule == "plateau" and metric is None:
                raise InputError(
                    "plateau_metric must be given with schedule plateau where there is no single objective, got null"
                )

    def set(self, position: Position) -> None:
        """Sets what holds for the batch at a position."""
        groups = self._optimiser.param_groups
        for group, peak, schedule, plateau in zip(groups, self._peaks, self._schedules, self._plateaus, strict=True):
            group["lr"] = peak * lr_factor(schedule, position, plateau.decays)

    def observe(self, metrics: Mapping[str, float], *, evaluated: bool) -> None:
        """Shows plateau what an epoch measured. Raises InputError when an epoch that was evaluated lacks the metric."""
        for index, (schedule, metric) in enumerate(zip(self._schedules, self._watched, strict=True)):
            if schedule.schedule != "plateau" or metric is None:
                continue
            name, mode = metric
            if name in metrics:
                self._plateaus[index] = self._plateaus[index].after(metrics[name], mode, schedule.patience)
            elif evaluated:
                raise InputError(f"plateau_metric must be one of {', '.join(sorted(metrics))}, got {name!r}")

    def state(self) -> list[list[Any]]:
        """What plateau has seen, a list a group, for a checkpoint; empty where no group has that schedule."""
        has_plateau = any(schedule.schedule == "plateau" for schedule in self._schedules)
        return [list(plateau) for plateau in self._plateaus] if has_plateau else []

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Takes over what `state` gave; an empty one is the beginning."""
        self._plateaus = [Plateau(*fields) for fields in state] or [Plateau() for _ in self._schedules]


def _watched(schedule: LrSchedule, objective: tuple[str, str] | None) -> Metric | None:
    if schedule.plateau_metric is not None:
        return schedule.plateau_metric, schedule.plateau_mode
    return cast(Metric, objective) if objective is not None else None
