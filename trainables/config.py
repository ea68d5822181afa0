"""What can be set in every training, and how a Config says what is wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Fields of every trainable's Config; each sets its own defaults."""

    epochs: int = 10
    seed: int = 0
    lr: float = 1e-3  # of AdamW at its highest
    weight_decay: float = 1e-4
    batch: int = 32  # rows of the plan a step, of all workers together
    accumulate: int = 1  # steps whose gradients are added before the weights move
    warmup: float = 0.0  # share of the training in which lr rises from 0; then cosine to 0
    clip_norm: float | None = None  # largest norm of the gradient
    clip_quantile: float | None = None  # clips at this quantile of the norms of the last 512 gradients
    ema: float | None = None  # decay of averaged weights, which are evaluated in place of the last
    amp: bool = True  # bfloat16 autocast, on CUDA only
    tf32: bool = True  # TensorFloat-32 in what is left of float32 products, on CUDA only
    compile: bool = False  # torch.compile
    sync_bn: bool = False  # batch norm over all workers of a trial, on CUDA only; over each worker's rows otherwise
    evaluate_every: int = 1  # epochs; the last one always is

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("\n".join(problems))

    def problems(self) -> list[str]:
        """All that is wrong with the values; a trainable's Config adds its own."""
        found = self.outside(
            ("epochs", 1, 100_000),
            ("seed", 0, 2**31),
            ("lr", 0, 10),
            ("weight_decay", 0, 10),
            ("batch", 1, 65_536),
            ("accumulate", 1, 4096),
            ("warmup", 0, 1),
            ("evaluate_every", 1, 100_000),
        )
        if self.clip_norm is not None and self.clip_norm <= 0:
            found.append(f"clip_norm must be > 0 or null, got {self.clip_norm}")
        if self.clip_quantile is not None and not 0 < self.clip_quantile < 1:
            found.append(f"clip_quantile must be in 0..1 or null, got {self.clip_quantile}")
        if self.ema is not None and not 0 < self.ema < 1:
            found.append(f"ema must be in 0..1 or null, got {self.ema}")
        return found

    def outside(self, *ranges: tuple[str, float, float]) -> list[str]:
        """What is said of fields that do not lie in low..high; null is fine."""
        values = [(name, getattr(self, name), low, high) for name, low, high in ranges]
        return [
            f"{name} must be in {low}..{high}, got {value}"
            for name, value, low, high in values
            if value is not None and not low <= value <= high
        ]


def config_hash(config: LoopConfig) -> str:
    """A hash of every field."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
