"""What can be set in the toy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..training.config import LoopConfig, bounded

METRICS = ("loss", "height")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """The point to stand on, what an epoch costs, and what goes wrong in it."""

    epochs: int = 6
    lr: float = 0.1
    batch: int = 4
    x: float = bounded(0.0, -5, 5)
    y: float = bounded(0.0, -5, 5)
    seconds_per_epoch: float = bounded(0.0, 0, 86_400)
    noise: float = bounded(0.0, 0, 1000)  # standard deviation of what is added to the measured loss
    fail_at_epoch: int | None = None  # from 1: what `fail_with` says happens in this epoch
    fail_with: Literal["error", "oom", "hang", "kill", "disk", "setup"] = "error"
    fail_once: str | None = None  # a file: made at the failure, which its presence prevents
    nan_at_epoch: int | None = None  # the loss is not a number in this epoch
