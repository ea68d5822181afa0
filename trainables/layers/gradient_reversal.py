"""Gradient reversal (arXiv 1505.07818), and how its strength grows.

Forward it is the identity; backward the gradient is multiplied by -alpha. What stands above it learns to lower a
loss; what stands below it learns to raise the same loss, alpha times as fast.

On the clothing branch of `t2i_reid` this means: the layers above the reversal (the MLPs, the projectors, the text
tower) learn to match clothing with its description, while the clothing projection and the trunk below it are moved
so that they can't. Everything that flows back through the clothing feature arrives reversed, the decoupling loss
included: of its two sides only the identity side moves apart from the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..choices import ReversalSchedule, ScheduleUnit

SEED_START = 0.1  # of the seed's schedule, which reaches 1 after 45 epochs: 0.1 + 0.02 * epoch


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.alpha * grad, None


def reverse_gradient(x: Tensor, alpha: float) -> Tensor:
    """`x`, whose gradient is multiplied by -alpha on the way back; alpha 0 lets none through."""
    return _Reversal.apply(x, alpha)


def ramp(progress: float, epochs: int, until: float, unit: ScheduleUnit) -> float:
    """How far a schedule is, 0..1: it ends after `until` epochs, or after that share of the training of `epochs`."""
    at = progress * epochs if unit == "epochs" else progress
    return min(1.0, at / until)


def strength(schedule: ReversalSchedule, done: float) -> float:
    """Share of the highest alpha when a schedule is `done`, 0..1.

    seed      0.1 + 0.9 * done: over 45 epochs its min(1, 0.1 + 0.02 * epoch)
    linear    done
    dann      2 / (1 + exp(-10 done)) - 1 (arXiv 1505.07818, sect. 5.2.2); it ends at 0.9999
    constant  1
    """
    if schedule == "seed":
        return SEED_START + (1 - SEED_START) * done
    if schedule == "linear":
        return done
    if schedule == "dann":
        return 2 / (1 + math.exp(-10 * done)) - 1
    return 1.0
