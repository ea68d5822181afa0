"""The learning rate as a share of its highest, as a function of the progress of the training."""

from __future__ import annotations

import math
from typing import NamedTuple


class Position(NamedTuple):
    """Where a training stands before one of its batches."""

    epoch: int  # finished epochs
    batch: int  # finished batches of the next epoch
    batches: int  # of every epoch


def lr_factor(progress: float, warmup: float) -> float:
    """Share of the highest learning rate at a share of the training: linear rise, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    if warmup >= 1:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
