"""Learning rates as a function of how far a training is: a linear warm-up, times one of six schedules.

    cosine, linear   after the warm-up, from lr_start_factor to lr_end_factor at the training's end
    step, multistep  times lr_decay every step_epochs, or at each of the milestones
    plateau          times lr_decay whenever a figure has not improved for longer than `patience`: see `plateau`
    constant         no change

Each is what torch's scheduler of that name gives, stepped as often as `schedule_interval` says; with a warm-up, what
`SequentialLR` gives of a `LinearLR` and cosine or linear, and `ChainedScheduler` of it and the others.
"""

from __future__ import annotations

import dataclasses
import json
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

ScheduleName = Literal["cosine", "linear", "step", "multistep", "plateau", "constant"]
Interval = Literal["batch", "step", "epoch"]
WarmupUnit = Literal["training", "steps", "epochs"]


class Position(NamedTuple):
    """Where a training stands before one of its batches."""

    epoch: int  # finished epochs
    batch: int  # finished batches of the next epoch
    batches: int  # of every epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class LrSchedule:
    """How the learning rate of one group of parameters goes: fields of `LoopConfig`, which says what they mean."""

    epochs: int
    accumulate: int
    evaluate_every: int
    schedule: ScheduleName
    schedule_interval: Interval
    warmup: float
    warmup_unit: WarmupUnit
    warmup_start_factor: float
    lr_start_factor: float
    lr_end_factor: float
    step_epochs: int | None
    milestones: tuple[int, ...]
    lr_decay: float
    patience: int
    plateau_metric: str | None
    plateau_mode: Literal["max", "min"]

    @classmethod
    def of(cls, config: Any, **own: Any) -> LrSchedule:
        """The schedule of a `LoopConfig`, with what a group has of its own in place of it."""
        return cls(**{f.name: own.get(f.name, getattr(config, f.name)) for f in dataclasses.fields(cls)})

    def problems(self) -> Iterable[str]:
        """What is missing, or does not fit together, a line each."""
        yield from self._warmup_problems()
        if self.schedule == "step":
            if self.step_epochs is None:
                yield "step_epochs must be given with schedule step, got null"
            elif self.step_epochs >= self.epochs:
                yield f"step_epochs must be below epochs, {self.epochs}, or lr never decays, got {self.step_epochs}"
        if self.schedule == "multistep":
            got = f"got {json.dumps(self.milestones)}"
            if not self.milestones:
                yield f"milestones must be given with schedule multistep, {got}"
            if any(not 1 <= milestone < self.epochs for milestone in self.milestones):
                yield f"milestones must be in 1..{self.epochs - 1}, below epochs, {got}"
            if list(self.milestones) != sorted(set(self.milestones)):
                yield f"milestones must increase, {got}"
        if self.schedule == "plateau":
            yield from self._plateau_problems()

    def _warmup_problems(self) -> Iterable[str]:
        unit = f"with warmup_unit {self.warmup_unit}"
        longest = {"training": 1, "epochs": self.epochs}.get(self.warmup_unit)
        if longest is not None and self.warmup > longest:
            yield f"warmup must be in 0..{longest} {unit}, got {self.warmup}"
        if self.warmup_unit == "steps" and self.warmup % 1:
            yield f"warmup must be a whole number {unit}, got {self.warmup}"
        if self.schedule_interval == "epoch" and self.warmup > 0:
            interval = "with schedule_interval epoch"
            if self.warmup_unit == "steps":
                yield f"warmup_unit must be training or epochs {interval}, got steps"
            if self.warmup_start_factor == 0:
                yield f"warmup_start_factor must be > 0 {interval}, or the first epoch learns nothing, got 0.0"

    def _plateau_problems(self) -> Iterable[str]:
        """A decay takes a first figure and then `patience` + 1 that are no better, before the last epoch."""
        if self.epochs < 1 or self.evaluate_every < 1:
            return
        in_training = self.plateau_metric is not None and self.plateau_metric.startswith("train_")
        figures = (self.epochs - 1) // (1 if in_training else self.evaluate_every)
        if figures < 2:
            yield f"schedule must not be plateau with {figures} evaluations before the last epoch: lr never decays"
        elif self.patience > figures - 2:
            often = f"with {figures} evaluations before the last epoch, or lr never decays"
            yield f"patience must be at most {figures - 2} {often}, got {self.patience}"


def steps_per_epoch(schedule: LrSchedule, batches: int) -> int:
    """Moves of the weights in an epoch of so many batches."""
    return -(-batches // schedule.accumulate)


def lr_factor(schedule: LrSchedule, position: Position, decays: int = 0) -> float:
    """The learning rate before a batch, as a share of the group's highest. `decays`: how often plateau has decayed it.

    Within a step, the factor of its last batch is the one that counts.
    """
    done = _done(schedule, position)
    warmup = _warmup(schedule, position.batches)
    rise = 1.0
    if done < warmup:
        rise = schedule.warmup_start_factor + (1 - schedule.warmup_start_factor) * (done / warmup)
    return rise * _after_warmup(schedule, done, warmup, position.epoch, decays)


def _done(schedule: LrSchedule, position: Position) -> float:
    """The share of the training that is done, as of the last change of the learning rate."""
    epoch, batch, batches = position
    if schedule.schedule_interval == "epoch":
        return epoch / schedule.epochs
    if schedule.schedule_interval == "step":
        steps = steps_per_epoch(schedule, batches)
        return (epoch * steps + batch // schedule.accumulate) / (schedule.epochs * steps)
    return (epoch + batch / batches) / schedule.epochs


def _warmup(schedule: LrSchedule, batches: int) -> float:
    """The share of the training in which the learning rate rises."""
    if schedule.warmup_unit == "epochs":
        return schedule.warmup / schedule.epochs
    if schedule.warmup_unit == "steps":
        return schedule.warmup / (schedule.epochs * steps_per_epoch(schedule, batches))
    return schedule.warmup


def _after_warmup(schedule: LrSchedule, done: float, warmup: float, epoch: int, decays: int) -> float:
    """The schedule without its warm-up."""
    start, end = schedule.lr_start_factor, schedule.lr_end_factor
    match schedule.schedule:
        case "cosine" | "linear":
            if done <= warmup:
                return start
            if schedule.schedule == "linear":
                return start + (end - start) * (done - warmup) / (1 - warmup)
            return end + (start - end) * (0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))))
        case "step":
            return schedule.lr_decay ** (epoch // (schedule.step_epochs or schedule.epochs))
        case "multistep":
            return schedule.lr_decay ** bisect_right(schedule.milestones, epoch)
        case "plateau":
            return max(schedule.lr_decay**decays, end)
        case "constant":
            return 1.0
