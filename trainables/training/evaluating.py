"""An evaluation during training: every worker predicts its shards of the plan, the first one scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...datasets.stream import Arrays, Part, cut
from ..contract import Scores, Task
from .team import Team, shares


class Evaluation:
    """A task's evaluation by a team."""

    def __init__(self, task: Task, team: Team, seed: int, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._task, self._team, self._seed, self._autocast = task, team, seed, autocast

    def parts(self, epoch: int) -> Iterator[Part]:
        """The batches that this worker must read for it, in order."""
        for split in self._task.eval_splits:
            for _, parts in self._shards(split, epoch):
                yield from parts

    def run(self, batches: Iterator[tuple[Part, Arrays]], epoch: int) -> Scores:
        """Scores from the batches of `parts`; empty ones at all workers but the first."""
        predictions = {split: self._predict(batches, split, epoch) for split in self._task.eval_splits}
        return self._task.evaluate(predictions) if self._team.rank == 0 else Scores({})

    def _shards(self, split: str, epoch: int) -> list[tuple[int, list[Part]]]:
        """(place in the plan, batches) of each shard that this worker predicts."""
        plan = self._task.plan(split, epoch, self._seed)
        rows = self._task.batch_rows(split)
        if self._team.size == 1:
            return [(0, cut(plan, rows, epoch, split))]
        sizes = self._task.eval_shards(split)
        assert sum(sizes) == plan.num_rows, f"shards of {split} have {sum(sizes)} rows, its plan {plan.num_rows}"
        starts = list(accumulate(sizes, initial=0))
        mine = shares(sizes, self._team)
        return [(i, cut(plan.slice(starts[i], sizes[i]), rows, epoch, split)) for i in mine]

    def _predict(self, batches: Iterator[tuple[Part, Arrays]], split: str, epoch: int) -> Arrays:
        """The predictions of all workers for a split, in the plan's order; empty at all but the first."""
        own: list[tuple[int, list[Arrays]]] = []  # (place in the plan, predictions of each batch)
        with torch.no_grad(), self._autocast():
            for start, parts in self._shards(split, epoch):
                predictor = self._task.predictor()
                predicted = []
                for _ in parts:
                    place, arrays = next(batches)
                    assert place.split == split
                    predicted.append(predictor(arrays))
                own.append((start, predicted))
        in_order = sorted(chain.from_iterable(self._team.gathered(own)), key=itemgetter(0))
        pieces = list(chain.from_iterable(predicted for _, predicted in in_order))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in (pieces[0] if pieces else {})}


class Evaluated:
    """While open, a model is in eval mode and holds averaged weights, if there are any."""

    def __init__(self, model: nn.Module, average: nn.Module | None) -> None:
        self.model, self.average = model, average
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> nn.Module:
        if self.average is not None:
            self.own = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.average.state_dict())
        return self.model.eval()

    def __exit__(self, *_: object) -> None:
        if self.average is not None:
            self.model.load_state_dict(self.own)
        self.model.train()
