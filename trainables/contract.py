"""What a trainable is to the loop that trains it, to the sweep that searches it, and to the registry that serves it.

A trainable is a folder `trainables/<name>/`. Its `task.py` is a `Module`; what a family can do beside training is an
optional function of that module, of one of the protocols `CanTrack`, `CanRank` and `CanImport`. Nothing else needs to
know its name.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..datasets.storage.store import Store
from ..datasets.stream import Arrays, Read

if typing.TYPE_CHECKING:
    from torch import Tensor, nn

    from .training.config import LoopConfig
    from .training.package import Package

Predictor = Callable[[Mapping[str, Any]], Arrays]


@dataclass(frozen=True, slots=True)
class Scores:
    """Result of an evaluation: figures by the names of `METRICS`, and the post-hoc setting that they hold under."""

    metrics: Mapping[str, float]
    setting: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """One model, its data and its metrics under one Config. Made by `Task(config, data)`, after seeding."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained, saved and packaged."""

    @property
    def read(self) -> Read:
        """Rows of a plan, and the store they lie in, to arrays by name. Picklable and pure: it runs in data workers,
        and the same rows give the same arrays."""

    @property
    def eval_splits(self) -> Sequence[str]:
        """The splits that an evaluation needs, in order; figures are of the last."""

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """The rows of a split in an epoch (from 0), in order, with everything random already drawn: one row is what
        `read` takes for one sample. Cheap, and decided by its arguments alone. That of `train` raises InputError where
        an evaluation would have nothing to measure: nobody should learn it after an epoch.

        A task may have `evaluation_plan(split)` beside it: the rows by which a model is measured on any split, `train`
        too, whose `plan` is for training; and `unmeasured()`: which of METRICS its data can't tell."""

    def batch_rows(self, split: str) -> int:
        """Rows of a split's plan in one batch."""

    def eval_shards(self, split: str) -> Sequence[int]:
        """Numbers of rows, in order, of the parts of an evaluation's plan that may be predicted apart from each other,
        each by a predictor of its own; they add up to the plan. Several workers share them out."""

    @property
    def loss_is_sum(self) -> bool:
        """Whether `losses` adds up over the rows of a batch; otherwise it is their mean."""

    @property
    def has_unused_parameters(self) -> bool:
        """Whether some batches give some trained weights no gradient: DDP must then look for them."""

    def compiled(self) -> Sequence[nn.Module]:
        """The parts of the model worth `torch.compile`, compiled in place where the Config asks for it."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser, every trained parameter in one: `params`, and `lr`, `weight_decay` and fields of
        the schedule where they differ from the Config's; see `training.optimisers.make_optimiser`."""

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Weighted terms by name, scalars, whose sum is minimised. `batch` is what `read` gives, as tensors on the
        model's device; `progress` is the share of the training that is over, 0..1. A term without gradient is
        measured like the others, and not added."""

    def facts(self) -> dict[str, Any]:
        """What a package must carry beside weights, Config and setting, in values that JSON can hold."""

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes a package's facts in place of what the training data says."""

    def predictor(self) -> Predictor:
        """Called with the batches of one split's plan as arrays, in order; gives the predictions that are complete by
        then, as arrays. Joined over a plan they do not depend on how it is cut into batches."""

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """METRICS of the last split given, from predictions by split, under the given post-hoc setting. Without one it
        is chosen, on the first of `eval_splits`."""

    def score_with(self, split: str, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """All figures of a split under a setting that was chosen elsewhere: METRICS among them, and more for people."""


class Servable(Protocol):
    """A packaged model, ready to answer."""

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Columns of rows in, columns of as many rows out, in values that JSON can hold."""


class Module(Protocol):
    """A trainable's module, `trainables/<name>/task.py`."""

    Config: type[LoopConfig]  # every field with unit, range and why
    METRICS: Sequence[str]  # names of the figures that `Task.evaluate` gives
    Task: Callable[[Any, Any], Task]  # (Config, what `open_data` gives)

    @staticmethod
    def open_data(store: Store | None) -> Any:
        """The data set at `store`, with the frames it has decoded. Raises InputError where the trainable needs data
        and there is none."""

    @staticmethod
    def check_data(store: Store) -> None:
        """Raises DataError with all that is wrong and can be seen without decoding frames: also where an evaluation has
        nothing to measure; logs what is left out. It may take fields of the Config, each by its name and with a
        default."""

    @staticmethod
    def serve(package: Package) -> Servable:
        """A packaged model, ready to answer. Fetches nothing: all it needs is in the package."""

    @staticmethod
    def example(data: Any, config: LoopConfig) -> dict[str, list[Any]]:
        """One row of real input for `serve(...).predict`, by column, in values that JSON can hold."""


# -- optional capabilities of a module -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What a model follows through a video."""

    frames: int  # of the video
    rows: Sequence[Mapping[str, Any]]  # one an expression, in order: figures for people
    draw: Callable[[], Iterator[NDArray[np.uint8]]]  # the frames with all of it drawn in, H x W x 3, of one size


class CanTrack(Protocol):
    """A module whose models follow expressions through a video: `refsweep model track`."""

    @staticmethod
    def track(package: Package, data: Any, video: str, expressions: Sequence[str]) -> Tracked:
        """Follows expressions through a video of a data set. Raises InputError when there is no such video."""

    @staticmethod
    def track_example(data: Any) -> tuple[str, list[str]]:
        """A video of the test split, and expressions that are worth following in it."""


class RankingModel(Servable, Protocol):
    """A packaged model that ranks a gallery of pictures for a query."""

    @property
    def columns(self) -> Sequence[str]:
        """What a query may hold: `text`, and names of modalities of pictures."""

    def gallery(self, images: Sequence[bytes | str]) -> Mapping[str, NDArray[Any]]:
        """Encodes G pictures, PNG or JPEG files as bytes or base64; arrays of G rows. Raises InputError for one that
        won't decode."""

    def rank(self, query: Mapping[str, Any], gallery: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """How well each picture of an encoded gallery fits a query, G; larger is better. Raises InputError for a query
        that holds nothing."""


class CanRank(Protocol):
    """A module whose models find somebody or something in a gallery of pictures: `refsweep model query`."""

    @staticmethod
    def serve(package: Package) -> RankingModel:
        """A packaged model, ready to rank."""

    @staticmethod
    def gallery(store: Store, split: str) -> pa.Table | None:
        """`path` and `identity` of the gallery of a data set's split; None where there is no such data set."""


class CanImport(Protocol):
    """A module that reads published checkpoints: `refsweep model import`."""

    @staticmethod
    def import_checkpoint(checkpoint: str, fields: Mapping[str, Any]) -> Package:
        """A published checkpoint, a file or s3:// object, as a package. `fields` say what the file does not. Raises
        InputError when it does not fit, and for fields that there are not."""
