"""A small task in double precision for tests of optimisers and schedules, and the same training in plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays
from refsweep.trainables.contract import Scores
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Stopped, Training
from torch import Tensor, nn

EPOCHS, LR = 5, 0.05
ROWS, BATCH = 7, 2  # four batches an epoch, the last of one row
BATCHES = 4
FIGURES = (1.0, 3.0, 3.0, 2.0, 3.0001, 3.5, 3.4, 3.3, 3.2, 3.1)  # what each epoch measures


def config(**fields: Any) -> toy.Config:
    """A Config without weight decay, of few epochs."""
    return toy.Config(**{"epochs": EPOCHS, "batch": BATCH, "lr": LR, "weight_decay": 0.0, **fields})


class LineTask(toy.Task):
    """A layer, a norm and a layer that learn a line."""

    def __init__(self, config: toy.Config, groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None) -> None:
        super().__init__(config)
        self.model = make_model()  # type: ignore[assignment]
        self.read = read
        self._groups = groups or (lambda model: [{"params": list(model.parameters())}])

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        return pa.table(rows(epoch)) if split == "train" else pa.table({"epoch": [epoch]})

    def batch_rows(self, split: str) -> int:
        return BATCH

    def param_groups(self) -> list[dict[str, Any]]:
        return self._groups(self.model)

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        return {"square": square(self.model, batch)}

    def predictor(self) -> Any:
        return lambda batch: {"epoch": batch["epoch"]}

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        return Scores({"figure": FIGURES[int(predictions["validation"]["epoch"][0])]})


def make_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)).double()


def rows(epoch: int) -> dict[str, Any]:
    drawn = np.random.default_rng(epoch).standard_normal((3, ROWS))
    return dict(zip("abc", drawn, strict=True))


def read(rows: pa.Table, _: Store) -> Arrays:
    return {name: rows.column(name).to_numpy() for name in rows.column_names}


def square(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Mean square of the error in a sum of three numbers."""
    x_B3 = torch.stack([torch.as_tensor(batch[name]) for name in "abc"], 1)
    return (model(x_B3)[:, 0] - x_B3.sum(1)).square().mean()


@dataclass(frozen=True)
class Move:
    """What one move of the weights used and left behind."""

    lrs: tuple[float, ...]  # by parameter
    weights: tuple[Tensor, ...]


def moves(
    c: toy.Config,
    groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    *,
    objective: tuple[str, str] | None = None,
    folder: Path | None = None,
    stops: Sequence[int] = (),
) -> list[Move]:
    """Trains a LineTask by our loop, stopped after each number of batches of `stops` and resumed in `folder`."""
    seen: list[Move] = []
    for attempt, batches in enumerate((*stops, None), 1):
        checkpoints = Checkpoints(Store(str(folder))) if folder else None
        training = Training(
            lambda: LineTask(c, groups), c, None, checkpoints, attempt=attempt, best=objective, workers=1
        )
        training.resume()
        training.step.optimiser.register_step_post_hook(
            lambda optimiser, *_, model=training.task.model: seen.append(_move(model, optimiser))
        )
        try:
            list(training.run(after(batches)))
        except Stopped:
            continue
        assert training.is_over
    return seen


def after(batches: int | None) -> Callable[[], bool]:
    """A `stop` that says yes after so many batches; without a number never."""
    answers = itertools.chain(itertools.repeat(False, batches - 1), [True]) if batches else itertools.repeat(False)
    return lambda: next(answers)


@dataclass(frozen=True)
class Plain:
    """Optimisers of torch, and the schedulers that are stepped after each move and after each epoch."""

    optimisers: Sequence[torch.optim.Optimizer]
    each_step: Sequence[Any] = ()
    each_epoch: Sequence[Any] = ()


def torch_moves(c: toy.Config, plain: Callable[[nn.Module], Plain]) -> list[Move]:
    """The same training as anybody would write it in torch."""
    model = make_model()
    p, seen = plain(model), []
    for epoch in range(c.epochs):
        data = rows(epoch)
        for batch in range(BATCHES):
            part = {name: column[batch * BATCH : (batch + 1) * BATCH] for name, column in data.items()}
            (square(model, part) / c.accumulate).backward()
            if (batch + 1) % c.accumulate == 0 or batch + 1 == BATCHES:
                for optimiser in p.optimisers:
                    optimiser.step()
                seen.append(_move(model, *p.optimisers))
                model.zero_grad()
                for scheduler in p.each_step:
                    scheduler.step()
        for scheduler in p.each_epoch:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*((FIGURES[epoch],) if plateau else ()))
    return seen


def same(ours: list[Move], theirs: list[Move], rel: float = 1e-9) -> bool:
    """Whether each step used the same learning rates and left the same weights."""
    return len(ours) == len(theirs) and all(
        a.lrs == pytest.approx(b.lrs, rel=rel)
        and all(torch.allclose(x, y, rtol=rel, atol=rel) for x, y in zip(a.weights, b.weights, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def _move(model: nn.Module, *optimisers: torch.optim.Optimizer) -> Move:
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    lr = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
    parameters = list(model.parameters())
    return Move(tuple(lr[id(p)] for p in parameters), tuple(p.detach().clone() for p in parameters))
