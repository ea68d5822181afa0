"""The workers of one training, and what they exchange. A team of one exchanges nothing.

A step's rows are shared out: of every batch, row r goes to worker r mod size. So `batch` means the same with any
number of workers, and so do steps, schedules and a place in the plan: a training may go on with another number.
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
    """A team of one worker."""

    rank, size = 0, 1

    def rows(self, count: int) -> list[int]:
        """Which rows of a batch of `count` are this worker's. Where there are fewer rows than workers, who would
        have none takes one that is another's: it trains on it with weight 0."""
        return list(range(self.rank, count, self.size)) or [self.rank % count]

    def weight(self, count: int, *, summed: bool) -> float:
        """What this worker's loss is multiplied by, so that the mean of the workers' gradients is the gradient of the
        whole batch: of a loss that is the sum over rows, or their mean."""
        if self.size == 1:
            return 1.0
        mine = len(range(self.rank, count, self.size))
        return float(bool(mine)) * self.size if summed else mine * self.size / count

    def sum(self, values: Tensor) -> Callable[[], Tensor]:
        """Starts to add up a tensor over the workers; calling what it returns waits for the result."""
        return lambda: values

    def from_first(self, value: T) -> T:
        """The value that worker 0 has, at every worker."""
        return value

    def gathered(self, value: T) -> list[T]:
        """The values of all workers by rank, at worker 0; an empty list elsewhere."""
        return [value]

    def joined(self, task: Task, *, sync_bn: bool) -> nn.Module:
        """A task's losses, of a model that is trained together. Raises InputError when batch norm can't be
        synchronised."""
        return Losses(task)

    def alone(self, joined: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """While open, gradients are added up without being exchanged."""
        return contextlib.nullcontext()


class Losses(nn.Module):
    """A task's losses as the forward pass of a module, where DDP prepares its exchange of gradients."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._losses = task.model, task.losses

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """`Task.losses`: weighted terms by name, scalars."""
        return self._losses(batch, progress)


class ProcessTeam(Team):
    """The processes of torch.distributed's default group: gloo between CPUs, nccl between GPUs."""

    def __init__(self, device: str) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), torch.device(device)

    def sum(self, values: Tensor) -> Callable[[], Tensor]:
        total = values.detach().clone()
        pending = dist.all_reduce(total, async_op=True)

        def wait() -> Tensor:
            pending.wait()
            return total

        return wait

    def from_first(self, value: T) -> T:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def joined(self, task: Task, *, sync_bn: bool) -> nn.Module:
        if sync_bn:
            if self.device.type != "cuda":
                raise InputError("sync_bn must be false on CPUs: torch synchronises batch norm between GPUs only")
            nn.SyncBatchNorm.convert_sync_batchnorm(task.model)  # type: ignore[no-untyped-call]
        ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            Losses(task), device_ids=ids, find_unused_parameters=task.has_unused_parameters
        )

    def alone(self, joined: nn.Module) -> contextlib.AbstractContextManager[Any]:
        assert isinstance(joined, nn.parallel.DistributedDataParallel)
        return joined.no_sync()


def shares(sizes: Sequence[int], team: Team) -> list[int]:
    """Which of several shards of work, by their sizes, are this worker's: the largest first, each to who has least."""
    load = [0] * team.size
    mine = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = load.index(min(load))
        load[least] += sizes[index]
        if least == team.rank:
            mine.append(index)
    return sorted(mine)
