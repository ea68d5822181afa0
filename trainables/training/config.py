"""What can be set in every training, and how a Config says what is wrong with it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing
from dataclasses import dataclass
from typing import Any


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
    """Fields of every trainable's Config; each sets its own defaults."""

    epochs: int = bounded(10, 1, 100_000)
    seed: int = bounded(0, 0, 2**31)
    lr: float = bounded(1e-3, 0, 10)  # of AdamW at its highest
    weight_decay: float = bounded(1e-4, 0, 10)
    batch: int = bounded(32, 1, 65_536)  # rows of the plan a step, of all workers together
    accumulate: int = bounded(1, 1, 4096)  # steps whose gradients are added before the weights move
    warmup: float = bounded(0.0, 0, 1)  # share of the training in which lr rises from 0; then cosine to 0
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
        """All that is wrong with the values; a trainable's Config adds its own."""
        config: Any = type(self)
        found = [line for name, bounds in bounds_of(config).items() for line in self._outside(name, *bounds)]
        found += [
            f"{name} must be one of {', '.join('null' if c is None else str(c) for c in choices)}, got {value!r}"
            for name, choices in choices_of(config).items()
            if (value := getattr(self, name)) not in choices
        ]
        if self.clip_norm is not None and self.clip_norm <= 0:
            found.append(f"clip_norm must be > 0 or null, got {self.clip_norm}")
        if self.clip_quantile is not None and not 0 < self.clip_quantile < 1:
            found.append(f"clip_quantile must be in 0..1 or null, got {self.clip_quantile}")
        if self.ema is not None and not 0 < self.ema < 1:
            found.append(f"ema must be in 0..1 or null, got {self.ema}")
        return found

    def _outside(self, name: str, low: float, high: float) -> list[str]:
        value = getattr(self, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        return [] if all(low <= v <= high for v in values) else [f"{name} must be in {low}..{high}, got {value}"]


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


def config_hash(config: LoopConfig) -> str:
    """A hash of every field."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
