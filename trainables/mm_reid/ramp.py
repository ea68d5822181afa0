"""When a loss sets in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["epochs", "share"]
UNITS: tuple[Unit, ...] = ("epochs", "share")
PUBLISHED: dict[Unit, tuple[float, float]] = {"epochs": (5.0, 25.0), "share": (5 / 60, 25 / 60)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """The weight of a loss over the training: 0 up to `start`, its full value from `full` on, linear between.

    In epochs it steps with each (the first is epoch 1); in shares of the training it glides, so that a short
    training goes through all of it.
    """

    start: float = PUBLISHED["epochs"][0]
    full: float = PUBLISHED["epochs"][1]
    unit: Unit = "epochs"

    def __call__(self, progress: float, epochs: int) -> float:
        """0..1 at a share of the training."""
        now = math.floor(progress * epochs + 1e-6) + 1 if self.unit == "epochs" else progress
        if now >= self.full:
            return 1.0
        return max(0.0, (now - self.start) / (self.full - self.start))


def ramp_of(unit: Unit | None, start: float | None, full: float | None, epochs: int) -> Ramp:
    """A Config's ramp; null is as published: in epochs where the training is long enough, else in shares of it."""
    unit = unit or ("epochs" if epochs >= PUBLISHED["epochs"][1] else "share")
    usual = PUBLISHED[unit]
    return Ramp(start=usual[0] if start is None else start, full=usual[1] if full is None else full, unit=unit)
