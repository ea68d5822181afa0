"""What can be set in every training, and how a Config says what is wrong with it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from .schedules import Interval, LrSchedule, ScheduleName, WarmupUnit

Optimiser = Literal["adamw", "adam", "sgd"]


def bounded(default: Any, low: float, high: float) -> Any:
    """A field of a Config whose value, or each of whose values, must lie in low..high. Null is fine where its type
    allows it. The bounds are its metadata: what checks the field and what describes it read them there."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def fetched(default: str | None) -> Any:
    """A field of a Config that says where a new model's weights come from; null is nowhere. A package, which holds the
    weights itself, is built with null."""
    return dataclasses.field(default=default, metadata={"fetched": True})


def fetched_fields(config: type[Any]) -> list[str]:
    """Names of the fields of a Config that say where weights come from."""
    return [field.name for field in dataclasses.fields(config) if "fetched" in field.metadata]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Fields of every trainable's Config; each sets its own defaults.

    A *step* is a move of the weights, made after every `accumulate` batches and at the end of an epoch.
    """

    epochs: int = bounded(10, 1, 100_000)
    seed: int = bounded(0, 0, 2**31)
    batch: int = bounded(32, 1, 65_536)  # rows of the plan in a batch, of all workers together
    accumulate: int = bounded(1, 1, 4096)  # batches of a step; their gradients are added, each over this number

    optimiser: Optimiser = "adamw"
    lr: float = bounded(1e-3, 0, 10)  # learning rate at its highest
    weight_decay: float = bounded(1e-4, 0, 10)  # beside the gradient in adamw; in it, as L2, in adam and sgd
    momentum: float = bounded(0.0, 0, 0.9999)  # of sgd
    nesterov: bool = False  # of sgd with momentum
    bias_lr_factor: float = bounded(1.0, 0, 100)  # of biases, those of norm layers too: times their group's lr
    bias_weight_decay_factor: float = bounded(1.0, 0, 100)  # of the same: times their group's weight decay
    norm_weight_decay_factor: float = bounded(1.0, 0, 100)  # of norm layers, weights and biases: times the same

    schedule: ScheduleName = "cosine"  # of lr: see training.schedules
    schedule_interval: Interval = "batch"  # how often warm-up, cosine and linear change lr
    warmup: float = bounded(0.0, 0, 1_000_000)  # in which lr rises linearly, in warmup_unit
    warmup_unit: WarmupUnit = "training"  # share of it, or steps, or epochs
    warmup_start_factor: float = bounded(0.0, 0, 1)  # times lr, where the rise begins
    lr_start_factor: float = bounded(1.0, 0, 1)  # times lr, where cosine and linear begin
    lr_end_factor: float = bounded(0.0, 0, 1)  # times lr, where cosine and linear end, and plateau at the lowest
    step_epochs: int | None = bounded(None, 1, 100_000)  # step: lr decays whenever so many epochs are done
    milestones: tuple[int, ...] = bounded((), 1, 100_000)  # multistep: lr decays when so many epochs are done
    lr_decay: float = bounded(0.1, 1e-6, 0.9999)  # times lr, each time that step, multistep or plateau decays it
    patience: int = bounded(10, 0, 100_000)  # plateau: evaluations in a row without a better figure, before one more
    plateau_metric: str | None = None  # the figure; null is the sweep's objective, where there is one
    plateau_mode: Literal["max", "min"] = "max"  # of plateau_metric

    clip_norm: float | None = None  # largest norm of the gradient
    clip_quantile: float | None = None  # clips at this quantile of the norms of the last 512 gradients
    ema: float | None = None  # decay of averaged weights, which are evaluated in place of the last
    amp: bool = True  # bfloat16 autocast, on CUDA only
    tf32: bool = True  # TensorFloat-32 in what is left of float32 products, on CUDA only
    compile: bool = False  # torch.compile
    sync_bn: bool = False  # batch norm over all workers of a trial, on CUDA only; over each worker's rows otherwise
    evaluate_every: int = bounded(1, 1, 100_000)  # epochs; the last one always is

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("\n".join(problems))

    def problems(self) -> list[str]:
        """All that is wrong with the values, a line each; a trainable's Config adds its own."""
        config: Any = type(self)
        lines = [line for name, bounds in bounds_of(config).items() for line in self._outside(name, *bounds)]
        lines += [
            f"{name} must be one of {', '.join(map(shown, choices))}, got {value!r}"
            for name, choices in choices_of(config).items()
            if (value := getattr(self, name)) not in choices
        ]
        if self.clip_norm is not None and self.clip_norm <= 0:
            lines.append(f"clip_norm must be > 0 or null, got {self.clip_norm}")
        if self.clip_quantile is not None and not 0 < self.clip_quantile < 1:
            lines.append(f"clip_quantile must be in 0..1 or null, got {self.clip_quantile}")
        if self.ema is not None and not 0 < self.ema < 1:
            lines.append(f"ema must be in 0..1 or null, got {self.ema}")
        if self.optimiser == "sgd" and self.nesterov and self.momentum == 0:
            lines.append("momentum must be > 0 with nesterov, got 0.0")
        return [*lines, *LrSchedule.of(self).problems(), *_without_effect(self)]

    def _outside(self, name: str, low: float, high: float) -> list[str]:
        value = getattr(self, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        return [] if all(low <= v <= high for v in values) else [f"{name} must be in {low}..{high}, got {value}"]


def _without_effect(c: LoopConfig) -> Iterable[str]:
    """Fields that somebody set, though other fields leave them without effect. One that stands at the Config's default
    was set by nobody."""
    defaults = {field.name: field.default for field in dataclasses.fields(c)}
    sgd, warms = c.optimiser == "sgd", c.warmup > 0
    ramps = c.schedule in ("cosine", "linear")
    for name, has_effect, condition in (
        ("momentum", sgd, "optimiser is sgd"),
        ("nesterov", sgd, "optimiser is sgd"),
        ("schedule_interval", ramps or warms, "schedule is cosine or linear, or warmup is above 0"),
        ("warmup_unit", warms, "warmup is above 0"),
        ("warmup_start_factor", warms, "warmup is above 0"),
        ("lr_start_factor", ramps, "schedule is cosine or linear"),
        ("lr_end_factor", ramps or c.schedule == "plateau", "schedule is cosine, linear or plateau"),
        ("step_epochs", c.schedule == "step", "schedule is step"),
        ("milestones", c.schedule == "multistep", "schedule is multistep"),
        ("lr_decay", c.schedule in ("step", "multistep", "plateau"), "schedule is step, multistep or plateau"),
        ("patience", c.schedule == "plateau", "schedule is plateau"),
        ("plateau_metric", c.schedule == "plateau", "schedule is plateau"),
        ("plateau_mode", c.schedule == "plateau" and c.plateau_metric is not None, "plateau_metric is given"),
    ):
        value = getattr(c, name)
        if not has_effect and value != defaults[name]:
            yield f"{name} must be {shown(defaults[name])} unless {condition}, got {shown(value)}"


def shown(value: Any) -> str:
    """A value as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def bounds_of(config: type[Any]) -> dict[str, tuple[float, float]]:
    """The bounds of a Config's fields, by name. A field that a subclass gives another default keeps its bounds."""
    bounds: dict[str, tuple[float, float]] = {}
    for ancestor in reversed(config.__mro__):
        for field in vars(ancestor).get("__dataclass_fields__", {}).values():
            if "low" in field.metadata:
                bounds[field.name] = (field.metadata["low"], field.metadata["high"])
    return bounds


@functools.cache
def choices_of(config: type[Any]) -> dict[str, tuple[Any, ...]]:
    """The values that a Config's fields of type Literal may have, by name; None among them where the field may be
    null."""
    choices: dict[str, tuple[Any, ...]] = {}
    for name, hint in typing.get_type_hints(config).items():
        options = typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal else (hint,)
        literals = [o for o in options if typing.get_origin(o) is typing.Literal]
        if literals:
            values = tuple(value for option in literals for value in typing.get_args(option))
            choices[name] = (*values, None) if type(None) in options else values
    return choices


# Fields added after the first release, each with the value that does what was done before there was such a field: at
# that value it is left out of the hash, so that checkpoints of before are still of the same Config.
ADDED_LATER: dict[str, Any] = {
    "optimiser": "adamw",
    "momentum": 0.0,
    "nesterov": False,
    "bias_lr_factor": 1.0,
    "bias_weight_decay_factor": 1.0,
    "norm_weight_decay_factor": 1.0,
    "schedule": "cosine",
    "schedule_interval": "batch",
    "warmup_unit": "training",
    "warmup_start_factor": 0.0,
    "lr_start_factor": 1.0,
    "lr_end_factor": 0.0,
    "step_epochs": None,
    "milestones": (),
    "lr_decay": 0.1,
    "patience": 10,
    "plateau_metric": None,
    "plateau_mode": "max",
}


def config_hash(config: LoopConfig) -> str:
    """16 hexadecimal digits of a SHA-256 over every field, but those of `ADDED_LATER` that stand at their value there.
    A checkpoint is resumed only under the Config that has its hash."""
    fields = dataclasses.asdict(config)
    kept = {n: v for n, v in fields.items() if n not in ADDED_LATER or v != ADDED_LATER[n]}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
