"""What the batches of an epoch add up to, over all workers: losses, norms of gradients, seconds.

The first worker's signals to all others travel with the sums, so that a batch costs one exchange.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clipping import Clipped
from .team import Team


class NonFiniteError(ArithmeticError):
    """The loss became infinite or not a number."""


class Signals(NamedTuple):
    """What only the first worker knows and all must act on together."""

    stop: bool  # training was asked to stop after this batch
    saved: bool  # the last epoch's checkpoint, which was being written, is complete


class Pending(NamedTuple):
    """Sums over the workers that are under way."""

    names: list[str]  # of the loss terms
    wait: Callable[[], Tensor]


class EpochSums:
    """Sums over the batches of an epoch so far."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self.values: dict[str, float] = {}
        self.seconds = 0.0  # of earlier attempts at this epoch

    def start(self, terms: Mapping[str, Tensor], loss: Tensor, weight: float, signals: Signals) -> Pending:
        """Starts to add one batch's scalar terms and loss up over the workers. `weight` is this worker's share, which
        `loss` has already."""
        flags = torch.tensor(signals, dtype=torch.float64, device=loss.device)
        values = torch.stack([*terms.values()]).detach().double() * (weight / self._team.size)
        total = (loss.detach().double() / self._team.size)[None]
        return Pending([*terms], self._team.all_reduce(torch.cat([flags, values, total])))

    def finish(self, pending: Pending, epoch: int, batch: int) -> Signals:
        """Adds a batch's sums to the epoch's, and gives the first worker's signals. Raises NonFiniteError at every
        worker when the loss of one is not finite; it names `epoch` and `batch`, both from 1."""
        stop, saved, *values = pending.wait().tolist()
        by_name = dict(zip([*pending.names, "loss"], values, strict=True))
        if not math.isfinite(by_name["loss"]):
            terms = ", ".join(f"{name} {value:.4g}" for name, value in by_name.items() if name != "loss")
            raise NonFiniteError(f"the loss is {by_name['loss']} in epoch {epoch}, batch {batch}: {terms}")
        for name, value in by_name.items():
            self._add(f"train_{name}", value)
        return Signals(bool(stop), bool(saved))

    def add_gradient(self, clipped: Clipped, batches: int) -> None:
        """Adds the gradient of a move of the weights, once for each of the `batches` that it is of."""
        self._add("train_gradient_norm", clipped.norm * batches)
        self._add("train_spikes", float(clipped.spike) * batches)

    def means(self, batches: int) -> dict[str, float]:
        """The means over an epoch's batches, by name."""
        return {name: value / batches for name, value in sorted(self.values.items())}

    def reset(self) -> None:
        """Begins the next epoch."""
        self.values, self.seconds = {}, 0.0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes the sums of a checkpoint's state."""
        self.values, self.seconds = dict(state["sums"]), float(state["seconds"])

    def _add(self, name: str, value: float) -> None:
        self.values[name] = self.values.get(name, 0.0) + value
