"""When a figure has stopped improving: the state of the schedule `plateau`, as `torch.optim.lr_scheduler` has it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

THRESHOLD = 1e-4  # share of the best figure by which a better one must exceed it; torch's default


class Plateau(NamedTuple):
    """The figures of a training so far, as far as they count."""

    best: float | None = None
    stale: int = 0  # figures since then that were no better, or since the last decay
    decays: int = 0  # of the learning rate

    def after(self, figure: float, mode: Literal["max", "min"], patience: int) -> Plateau:
        """The state after one more figure: more than `patience` that are no better make for a decay.

        Unlike torch's, figures below 0 must exceed the best by a share of its size too.
        """
        if self._is_better(figure, mode):
            return self._replace(best=figure, stale=0)
        if self.stale + 1 > patience:
            return self._replace(stale=0, decays=self.decays + 1)
        return self._replace(stale=self.stale + 1)

    def _is_better(self, figure: float, mode: Literal["max", "min"]) -> bool:
        if self.best is None:
            return not math.isnan(figure)
        gain = figure - self.best if mode == "max" else self.best - figure
        return gain > THRESHOLD * abs(self.best)
