"""One batch of training: forward, backward, and after every `accumulate` batches a move of the weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.stream import Arrays, Part
from ..contract import Task
from .averaging import AveragedWeights
from .clipping import Clipping
from .config import LoopConfig
from .optimisers import make_optimiser
from .rates import LearningRates
from .schedules import Position
from .sums import EpochSums, Signals
from .team import Team


class TrainStep:
    """A task with all that moves its weights: optimiser, learning rates, clipping, averaging."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        team: Team,
        device: torch.device,
        sums: EpochSums,
        objective: tuple[str, str] | None,
    ) -> None:
        """`objective`: (metric, `max` or `min`), which plateau watches. Raises InputError when a group's schedule does
        not fit together."""
        self._task, self._config, self._team, self._device, self._sums = task, config, team, device, sums
        self.losses = team.wrap(task, sync_bn=config.sync_bn)
        self.optimiser, schedules = make_optimiser(config, task.param_groups(), task.model)
        self.rates = LearningRates(self.optimiser, schedules, objective)
        self.average = AveragedWeights(task.model, config.ema) if config.ema is not None else None
        self.clipping = Clipping(config.clip_norm, config.clip_quantile)

    def run(self, part: Part, arrays: Arrays, position: Position, signals: Callable[[], Signals]) -> Signals:
        """Trains on a batch. `signals` is asked once, at every worker; the first worker's answer is given.

        Raises NonFiniteError at every worker when the loss of one is not finite.
        """
        epoch, batch, batches = position
        progress = (epoch + batch / batches) / self._config.epochs
        self.rates.set(position)
        tensors = {name: self._to_device(array) for name, array in arrays.items()}
        weight = self._team.loss_weight(part.count, summed=self._task.loss_is_sum)
        moves = (batch + 1) % self._config.accumulate == 0 or batch + 1 == batches
        with nullcontext() if moves else self._team.no_sync(self.losses):
            with self.autocast():
                terms = self.losses(tensors, progress)
            loss = torch.stack([term for term in terms.values() if term.requires_grad]).sum() * weight
            pending = self._sums.start(terms, loss, weight, signals())  # is added up while gradients are
            (loss / self._config.accumulate).backward()  # type: ignore[no-untyped-call]
        answer = self._sums.finish(pending, epoch + 1, batch + 1)
        if moves:
            self._move(batch % self._config.accumulate + 1)
        return answer

    def _move(self, batches: int) -> None:
        """Moves the weights by the gradient that so many batches have added up."""
        clipped = self.clipping.clip(self._task.model.parameters())
        if clipped is not None:
            self._sums.add_gradient(clipped, batches)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes: bfloat16 where the Config asks for it and the device is CUDA's."""
        if self._config.amp and self._device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser moves, group by group."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def _to_device(self, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)
