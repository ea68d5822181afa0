"""The workers of one training. Whatever they must agree on goes through here; one worker alone agrees at once.

The rows of a batch are shared out: row r goes to worker r mod size. So `batch` means the same with any number of
workers, and so do moves of the weights, schedules and a place in the plan: a training may be resumed with another
number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...datasets.problems import InputError
from ..contract import Task

T = TypeVar("T")


class Team:
    """One worker alone."""

    rank, size = 0, 1

    def rows(self, count: int) -> list[int]:
        """Indices of this worker's rows in a batch of `count`. A worker that would have none, because there are fewer
        rows than workers, takes one of another's: it trains on it with weight 0."""
        return list(range(self.rank, count, self.size)) or [self.rank % count]

    def loss_weight(self, count: int, *, summed: bool) -> float:
        """The factor on this worker's loss that makes the mean of the workers' gradients the gradient of the whole
        batch of `count` rows. `summed`: the loss is the sum over rows, else their mean."""
        if self.size == 1:
            return 1.0
        mine = len(range(self.rank, count, self.size))
        return float(bool(mine)) * self.size if summed else mine * self.size / count

    def all_reduce(self, values: Tensor) -> Callable[[], Tensor]:
        """Starts to add a tensor up over the workers; calling the result waits for the sum, of the same shape."""
        return lambda: values

    def broadcast(self, value: T) -> T:
        """The value that worker 0 passed."""
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all workers by rank, at worker 0; an empty list at the others."""
        return [value]

    def wrap(self, task: Task, *, sync_bn: bool) -> nn.Module:
        """A task's losses as a module whose backward pass averages gradients over the workers. Raises InputError when
        batch norm can't be synchronised."""
        return Losses(task)

    def no_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """While open, gradients are added up at each worker without being exchanged."""
        return contextlib.nullcontext()


class Losses(nn.Module):
    """A task's losses as the forward pass of a module, where DDP prepares its exchange of gradients."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._losses = task.model, task.losses

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Weighted scalar terms by name; `progress` is the share of the training that is done."""
        return self._losses(batch, progress)


class ProcessTeam(Team):
    """The processes of torch.distributed's default group: gloo between CPUs, nccl between GPUs."""

    def __init__(self, device: str) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), torch.device(device)

    def all_reduce(self, values: Tensor) -> Callable[[], Tensor]:
        total = values.detach().clone()
        pending = dist.all_reduce(total, async_op=True)

        def wait() -> Tensor:
            pending.wait()
            return total

        return wait

    def broadcast(self, value: T) -> T:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def wrap(self, task: Task, *, sync_bn: bool) -> nn.Module:
        if sync_bn:
            if self.device.type != "cuda":
                raise InputError("sync_bn must be false on CPUs: torch synchronises batch norm between GPUs only")
            nn.SyncBatchNorm.convert_sync_batchnorm(task.model)  # type: ignore[no-untyped-call]
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            Losses(task), device_ids=ids, find_unused_parameters=task.has_unused_parameters
        )

    def no_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[Any]:
        assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
        return wrapped.no_sync()


def shares(sizes: Sequence[int], team: Team) -> list[int]:
    """Indices of the shards of work that are this worker's: the largest first, each to the worker with the least."""
    load = [0] * team.size
    mine = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = load.index(min(load))
        load[least] += sizes[index]
        if least == team.rank:
            mine.append(index)
    return sorted(mine)
