"""What every model of this project is to the loop that trains it, and to the sweep that searches it.

A trainable is a module of this folder, found by its name. It has a frozen keyword-only `Config` (a
`loop.LoopConfig`), a function `open_data(store)` and a class `Task(config, data)` as described here.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from ..datasets.storage.store import Store
from ..datasets.stream import Arrays, Read

if typing.TYPE_CHECKING:
    from torch import Tensor, nn

    from .training.config import LoopConfig
    from .training.package import Package

_NOT_TRAINABLES = ("task", "config", "loop", "checkpoints", "package")
Predictor = Callable[[Mapping[str, Any]], Arrays]


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluation found."""

    metrics: Mapping[str, float]
    setting: Mapping[str, float] = field(default_factory=dict)  # the post-hoc choice they were measured with


class Task(Protocol):
    """One model, its data and its metrics under one Config."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def read(self) -> Read:
        """Rows of a plan to arrays: picklable and pure, runs in data workers."""

    @property
    def eval_splits(self) -> Sequence[str]:
        """The splits that an evaluation needs, in order; figures are of the last."""

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Which samples in which order, with everything random already drawn. Cheap and deterministic."""

    def batch_rows(self, split: str) -> int:
        """Rows of a split's plan in one batch."""

    def stretches(self, split: str) -> Sequence[int]:
        """Numbers of rows, in order, of the parts of an evaluation's plan that a predictor of their own can predict:
        several workers share them."""

    @property
    def loss_is_sum(self) -> bool:
        """Whether `losses` adds up over the rows of a batch; otherwise it is their mean."""

    @property
    def parts_may_rest(self) -> bool:
        """Whether some batches give some trained weights no gradient."""

    def compiled(self) -> Sequence[nn.Module]:
        """The parts worth `torch.compile`, compiled in place where the Config asks for it."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: `params`, and `lr`, `weight_decay` and fields of the learning rate's schedule where
        they differ from the Config's; see `training.optimisers.make_optimiser`."""

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Weighted terms whose sum is minimised; `progress` runs from 0 to 1 over the training. What has no gradient
        is measured like them, and not added."""

    def facts(self) -> dict[str, Any]:
        """What a package of the model must carry beside weights, Config and setting, in plain values."""

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Takes a package's facts in place of what training data would say."""

    def predictor(self) -> Predictor:
        """Called with the batches of one split's plan, in order; gives the predictions that are finished then."""

    def examine(self, split: str, found: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """All there is to say of predictions for a split under a setting that was chosen elsewhere."""

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """Metrics from the predictions of `eval_splits`; the post-hoc setting is chosen unless it is given."""


class Servable(Protocol):
    """A model that answers."""

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Columns in, columns out, row by row."""


class Module(Protocol):
    """A trainable's module."""

    Config: type[LoopConfig]
    METRICS: Sequence[str]  # what `evaluate` gives

    @staticmethod
    def open_data(store: Store | None) -> Any:
        """The data set at `store`; None where the trainable needs none."""

    @staticmethod
    def check_data(store: Store) -> None:
        """Raises DataError with all that is wrong and can be seen without decoding frames."""

    @staticmethod
    def serve(package: Package) -> Servable:
        """A packaged model, ready to answer."""

    @staticmethod
    def example(data: Any, config: LoopConfig) -> dict[str, list[Any]]:
        """A row of real input for `serve(...).predict`, by column."""

    Task: Callable[[Any, Any], Task]
