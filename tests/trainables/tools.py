"""What a family brings to the contract suite, a `Case`, and what tests of all families do with one.

`tests/trainables/<name>/case.py` holds a family's `CASE`.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays, cut
from refsweep.trainables import coercion, discovery
from refsweep.trainables.contract import Task
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Stopped, Training
from refsweep.trainables.training.package import Package
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A value of a Config field that acts only where other fields have certain values."""

    value: Any
    given: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A family small enough for tests."""

    config: Mapping[str, Any]  # fields of a tiny Config: two epochs of two or more batches, in a second or two
    write_data: Callable[[Path], object] | None = None  # writes tiny data into a folder; None: the family needs none
    variants: Sequence[Mapping[str, Any]] = ()  # further fields under which stopping and resuming must hold too
    changes: Mapping[str, Any] = field(default_factory=dict)  # another value of a field, or a `Changed`; see `other`
    no_effect: Mapping[str, str] = field(default_factory=dict)  # fields that change nothing here, and why
    guess: Callable[[Arrays, np.random.Generator], Arrays] | None = None  # predictions at random in place of some
    settings: tuple[Mapping[str, float], Mapping[str, float]] | None = (
        None  # two post-hoc settings whose figures differ
    )
    worker_tolerance: float = 1e-5  # of two workers' training loss against one's, relative


def case_of(name: str) -> Case:
    """The case of a family."""
    case: Case = importlib.import_module(f"refsweep.tests.trainables.{name}.case").CASE
    return case


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A family with its case and its data, opened once."""

    name: str
    case: Case
    folder: Path

    @property
    def module(self) -> types.ModuleType:
        return discovery.load(self.name)

    @property
    def store(self) -> Store | None:
        return Store(str(self.folder)) if self.case.write_data is not None else None

    @property
    def uri(self) -> str:
        return str(self.folder) if self.case.write_data is not None else "none"

    def open_data(self) -> Any:
        return self.module.open_data(self.store)

    def config(self, **changed: Any) -> Any:
        return coercion.make_config(self.module.Config, {**self.case.config, **changed})

    def task(self, data: Any = None, **changed: Any) -> Any:
        """A task with a random model in eval mode; all of its parameters are moved a little from where they start, so
        that zeros are none."""
        torch.manual_seed(0)
        task = self.module.Task(self.config(**changed), data or self.open_data())
        for parameter in task.model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        task.model.eval()
        return task

    def training(self, checkpoints: Path | None = None, attempt: int = 1, **changed: Any) -> Training:
        """A training of a Config, not begun."""
        config = self.config(**changed)
        return Training(
            lambda: self.module.Task(config, self.open_data()),
            config,
            self.store,
            Checkpoints(Store(str(checkpoints))) if checkpoints else None,
            attempt=attempt,
            workers=1,
        )

    def package(self, task: Any, setting: Mapping[str, float]) -> Package:
        """A task's model as a package."""
        fields = {name: getattr(task.config, name) for name in task.config.__dataclass_fields__}
        weights = task.model.state_dict()
        return Package(
            trainable=self.name, config=fields, setting=setting, facts=task.facts(), origin={}, weights=weights
        )


def trained(training: Training, stop_after: int | None = None) -> Training:
    """Trains to the end, or until so many batches are done in this process."""
    training.resume()
    left = [stop_after]

    def stop() -> bool:
        if left[0] is None:
            return False
        left[0] -= 1
        return left[0] == 0

    try:
        for _ in training.run(stop):
            pass
    except Stopped:
        pass
    return training


def read(task: Task, rows: pa.Table, store: Store | None = None) -> dict[str, Tensor]:
    """Rows as the batch that `losses` takes."""
    return {name: torch.tensor(array) for name, array in task.read(rows, store or Store(".")).items()}


@torch.no_grad()
def predicted(task: Task, split: str, store: Store | None = None, size: int | None = None) -> Arrays:
    """A split's predictions, in batches of `size` rows."""
    predict, parts = task.predictor(), cut(task.plan(split, 0, 0), size or task.batch_rows(split), 0, split)
    return joined([predict(task.read(part.rows, store or Store("."))) for part in parts])


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Predictions of batches that follow each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
