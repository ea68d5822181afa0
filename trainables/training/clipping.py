"""Clips gradients: at a fixed norm, or at a running quantile of the norms so far (AutoClip, arXiv 2007.14469)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

WINDOW = 512  # norms that are remembered: some epochs of a small training, a part of a large one's


class Clipped(NamedTuple):
    """The gradient of one move of the weights."""

    norm: float  # L2, over all parameters, before clipping
    spike: bool  # whether it was above the quantile


class Clipping:
    """`clip_norm` and `clip_quantile` of a Config; where both are given the lower limit holds."""

    def __init__(self, norm: float | None, quantile: float | None) -> None:
        self._norm, self._quantile = norm, quantile
        self._norms: deque[float] = deque(maxlen=WINDOW)

    def clip(self, parameters: Iterable[Tensor]) -> Clipped | None:
        """Clips gradients in place. None where norms are not remembered: without a quantile."""
        if self._quantile is None:
            if self._norm is not None:
                nn.utils.clip_grad_norm_(parameters, self._norm)
            return None
        parameters = list(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        length = float(norm)
        if not math.isfinite(length):  # nothing to cut to size: the next loss is not a number, and says so
            return Clipped(length, True)
        self._norms.append(length)
        limit = float(np.quantile(self._norms, self._quantile))
        nn.utils.clip_grads_with_norm_(parameters, limit if self._norm is None else min(limit, self._norm), norm)
        return Clipped(length, length > limit)

    def state(self) -> Tensor:
        """The norms that are remembered, float64 and oldest first, for a checkpoint."""
        return torch.tensor(self._norms, dtype=torch.float64)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes the norms of a checkpoint's state, which may lack them."""
        self._norms.clear()
        self._norms.extend(state.get("gradient_norms", torch.zeros(0)).tolist())
