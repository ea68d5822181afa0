"""What every model of this project is to the loop that trains it, and to the sweep that searches it.

A trainable is a module of this folder, found by its name. It has a frozen keyword-only `Config` (a
`loop.LoopConfig`), a function `open_data(store)` and a class `Task(config, data)` as described here.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ..datasets.problems import InputError
from ..datasets.store import Store
from ..datasets.stream import Arrays, Read

if typing.TYPE_CHECKING:
    from torch import Tensor, nn

    from .config import LoopConfig
    from .package import Package

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
        """Groups for the optimiser: `params`, and `lr` and `weight_decay` where they differ from the Config's."""

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


def names() -> list[str]:
    """Every trainable there is."""
    folder = Path(__file__).parent
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in _NOT_TRAINABLES)


def load(name: str) -> types.ModuleType:
    """The module of a trainable. Raises InputError with the choices."""
    if name not in names():
        raise InputError(f"trainable must be one of {', '.join(names())}, got {name!r}")
    return importlib.import_module(f".{name}", __package__)


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields from YAML or JSON, with tuples for lists: a Config is hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def make_config(module: types.ModuleType, fields: Mapping[str, Any]) -> LoopConfig:
    """The module's Config from plain values. Raises InputError that names every bad field."""
    known = {f.name: f for f in dataclasses.fields(module.Config)}
    hints = typing.get_type_hints(module.Config)
    problems = []
    for name, value in fields.items():
        if name not in known:
            problems.append(
                f"{name} is no field of {module.__name__.rpartition('.')[2]}'s Config: {', '.join(sorted(known))}"
            )
        elif not fits(value, hints[name]):
            problems.append(f"{name} must be {_say(hints[name])}, got {value!r}")
    if not problems:
        try:
            return module.Config(**{n: _as(v, hints[n]) for n, v in fields.items()})
        except ValueError as error:
            problems.append(str(error))
    raise InputError("\n".join(problems))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML is of the type a field is declared with; whole numbers are floats too."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, args[0]) for item in value)
    return isinstance(value, origin or hint)


def _as(value: Any, hint: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as(item, typing.get_args(hint)[0]) for item in value)
    takes_float = hint is float or float in typing.get_args(hint)
    takes_int = hint is int or int in typing.get_args(hint)
    return float(value) if takes_float and not takes_int and type(value) is int else value


def _say(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_say(args[0])}"
    if args:
        return " or ".join(_say(a) for a in args)
    return (
        "null"
        if hint is type(None)
        else {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
    )


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
