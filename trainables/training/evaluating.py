"""An evaluation during training: every worker predicts its shards of the plan, the first one scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from ...datasets.stream import Arrays, Part, cut
from ..contract import Scores, Task
from .team import Team, shares


class Evaluation:
    """A task's evaluation by a team."""

    def __init__(self, task: Task, team: Team, seed: int, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._task, self._team, self._seed, self._autocast = task, team, seed, autocast

    def parts(self, epoch: int) -> Iterator[Part]:
        """The batches that this worker must read for the evaluation of an epoch, in order."""
        for split in self._task.eval_splits:
            for _, parts in self._shards(split, epoch):
                yield from parts

    def run(self, batches: Iterator[tuple[Part, Arrays]], epoch: int) -> Scores:
        """Scores from the arrays of `parts`, at the first worker; empty ones at the others."""
        predictions = {split: self._predict(batches, split, epoch) for split in self._task.eval_splits}
        return self._task.evaluate(predictions) if self._team.rank == 0 else Scores({})

    def _shards(self, split: str, epoch: int) -> list[tuple[int, list[Part]]]:
        """(first row in the plan, batches) of each shard that this worker predicts."""
        plan = self._task.plan(split, epoch, self._seed)
        rows = self._task.batch_rows(split)
        if self._team.size == 1:
            return [(0, cut(plan, rows, epoch, split))]
        sizes = self._task.eval_shards(split)
        assert sum(sizes) == plan.num_rows, f"shards of {split} have {sum(sizes)} rows, its plan {plan.num_rows}"
        starts = list(accumulate(sizes, initial=0))
        mine = shares(sizes, self._team)
        return [(starts[i], cut(plan.slice(starts[i], sizes[i]), rows, epoch, split)) for i in mine]

    def _predict(self, batches: Iterator[tuple[Part, Arrays]], split: str, epoch: int) -> Arrays:
        """The workers' predictions for a split, in the plan's order, at the first worker; no arrays at the others."""
        shards: list[tuple[int, list[Arrays]]] = []
        with torch.no_grad(), self._autocast():
            for start, parts in self._shards(split, epoch):
                predictor = self._task.predictor()
                predictions = []
                for _ in parts:
                    part, arrays = next(batches)
                    assert part.split == split
                    predictions.append(predictor(arrays))
                shards.append((start, predictions))
        in_order = sorted(chain.from_iterable(self._team.gather(shards)), key=itemgetter(0))
        pieces = list(chain.from_iterable(predictions for _, predictions in in_order))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in (pieces[0] if pieces else {})}
