"""The training loop of every model: one object that stops after any batch and goes on from there, bit for bit.

One stream serves the whole run: the batches of an epoch, then those of its evaluation, and so on.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.problems import InputError
from ..datasets.store import Store
from ..datasets.stream import Arrays, Executor, Part, cut, default_workers, stream
from .checkpoints import Checkpoint, Checkpoints, Name
from .config import LoopConfig, config_hash
from .task import Scores, Task


class NonFiniteError(ArithmeticError):
    """The loss became infinite or not a number."""


class Stopped(Exception):  # noqa: N818  no error: somebody asked for it, and a checkpoint was written
    """Training was asked to stop and wrote a checkpoint."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch measured."""

    epoch: int  # finished epochs, from 1
    time_ms: int  # when, since 1970
    seconds: float
    metrics: Mapping[str, float]
    setting: Mapping[str, float]  # the post-hoc choice

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        return dataclasses.asdict(self)


def lr_factor(progress: float, warmup: float) -> float:
    """Share of the highest learning rate at a share of the training: linear rise, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    if warmup >= 1:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class Training:
    """A task being trained. `run` yields after each epoch; what it yields is already saved."""

    def __init__(
        self,
        make_task: Callable[[], Task],
        config: LoopConfig,
        store: Store | None,
        checkpoints: Checkpoints | None = None,
        *,
        attempt: int = 1,
        device: str = "cpu",
        executor: Executor = "threads",
        workers: int | None = None,
        facts: Mapping[str, Any] | None = None,
        best: tuple[str, str] | None = None,
    ) -> None:
        """`make_task` is called here, after seeding, so that the first weights follow from the seed too. `facts` are
        written into every manifest; `best` names a metric and `max` or `min`: the checkpoint of its best epoch is
        kept."""
        self.config, self.store = config, store
        self.checkpoints, self.attempt, self.best = checkpoints, attempt, best
        self.executor, self.workers = executor, workers or default_workers()
        self.facts = {**(facts or {}), "config": config_hash(config)}
        self.device = torch.device(device)
        seed_everything(config.seed)
        self.task = task = make_task()
        task.model.to(self.device).to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(task.param_groups(), lr=config.lr, weight_decay=config.weight_decay)
        self._top_lr = [group["lr"] for group in self.optimiser.param_groups]
        self.average = copy.deepcopy(task.model).requires_grad_(False) if config.ema else None
        for module in task.compiled() if config.compile else ():
            module.compile()
        self.history: list[EpochResult] = []
        self.epoch, self.batch = 0, 0  # finished epochs; finished batches of the next
        self._sums: dict[str, float] = {}
        self._seconds = 0.0
        self._steps: int | None = None

    def resume(self) -> Checkpoint | None:
        """Goes on from the newest complete checkpoint, if there is one. Raises InputError when it is another
        Config's."""
        found = self.checkpoints.newest() if self.checkpoints else None
        if found is None:
            return None
        if found.manifest["config"] != self.facts["config"]:
            raise InputError(f"{found.store.uri}/{found.name} was written under another Config")
        self.task.model.load_state_dict(found.model())
        self._restore(found.state())
        self.history = [EpochResult(**entry) for entry in found.history]
        self.epoch, self.batch = found.name.epoch, found.name.batch
        return found

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.config.epochs

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[EpochResult]:
        """Trains to the end. When `stop()` is true after a batch, writes a checkpoint and raises Stopped."""
        batches = stream(
            self._parts(), self.task.read, self.store or Store("."), executor=self.executor, workers=self.workers
        )
        try:
            while not self.is_over:
                yield self._epoch(batches, stop)
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def _parts(self) -> Iterator[Part]:
        """The rest of the run, from where it stands."""
        skip = self.batch
        for epoch in range(self.epoch, self.config.epochs):
            yield from self.plan("train", epoch)[skip:]
            skip = 0
            if self._evaluates(epoch + 1):
                for split in self.task.eval_splits:
                    yield from self.plan(split, epoch)

    def plan(self, split: str, epoch: int) -> list[Part]:
        """The batches of an epoch. Raises InputError when there are none to train on."""
        rows = self.task.batch_rows(split)
        parts = cut(self.task.plan(split, epoch, self.config.seed), rows, epoch, split)
        if not parts and split == "train":
            raise InputError("nothing to train on: the training plan is empty")
        return parts

    def _evaluates(self, epoch: int) -> bool:
        return epoch % self.config.evaluate_every == 0 or epoch == self.config.epochs

    def _epoch(self, batches: Iterator[tuple[Part, Arrays]], stop: Callable[[], bool]) -> EpochResult:
        started = time.monotonic()
        self.task.model.train()
        total = self._steps_an_epoch()
        while self.batch < total:
            place, arrays = next(batches)
            assert (place.epoch, place.split, place.index) == (self.epoch, "train", self.batch)
            self._step(arrays, total)
            self.batch += 1
            if stop():
                self._seconds += time.monotonic() - started
                self._save()
                raise Stopped
        metrics = {name: value / total for name, value in sorted(self._sums.items())}
        scores = self._evaluate(batches) if self._evaluates(self.epoch + 1) else Scores({})
        self.epoch, self.batch = self.epoch + 1, 0
        seconds = self._seconds + time.monotonic() - started
        result = EpochResult(
            self.epoch, time.time_ns() // 1_000_000, seconds, {**metrics, **scores.metrics}, scores.setting
        )
        self._sums, self._seconds = {}, 0.0
        self.history.append(result)
        self._save()
        return result

    def _steps_an_epoch(self) -> int:
        if self._steps is None:
            self._steps = len(self.plan("train", 0))
        return self._steps

    def _step(self, arrays: Arrays, total: int) -> None:
        progress = (self.epoch + self.batch / total) / self.config.epochs
        for group, top in zip(self.optimiser.param_groups, self._top_lr, strict=True):
            group["lr"] = top * lr_factor(progress, self.config.warmup)
        batch = {name: self._to_device(array) for name, array in arrays.items()}
        with self._autocast():
            terms = self.task.losses(batch, progress)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"the loss is {loss.item()} in epoch {self.epoch + 1}, batch {self.batch + 1}: {_say(terms)}"
            )
        (loss / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
        for name, term in {**terms, "loss": loss}.items():
            self._sums[f"train_{name}"] = self._sums.get(f"train_{name}", 0.0) + float(term.detach())
        if (self.batch + 1) % self.config.accumulate == 0 or self.batch + 1 == total:
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.clip_norm)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self._average()

    def _to_device(self, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _autocast(self) -> Any:
        if self.config.amp and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _average(self) -> None:
        if self.average is None or self.config.ema is None:
            return
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.task.model.parameters(), strict=True):
                mean.lerp_(value, 1 - self.config.ema)
            for ours, theirs in zip(self.average.buffers(), self.task.model.buffers(), strict=True):
                ours.copy_(theirs)

    def _evaluate(self, batches: Iterator[tuple[Part, Arrays]]) -> Scores:
        found: dict[str, Arrays] = {}
        with self.evaluated_model():
            for split in self.task.eval_splits:
                found[split] = self._predict(batches, split)
            return self.task.evaluate(found)

    def evaluated_model(self) -> _Evaluated:
        """While open, the task's model is in eval mode and holds the averaged weights, if there are any."""
        return _Evaluated(self.task.model, self.average)

    def _predict(self, batches: Iterator[tuple[Part, Arrays]], split: str) -> Arrays:
        parts: list[Arrays] = []
        predictor = self.task.predictor()
        with torch.no_grad(), self._autocast():
            if len(self.plan(split, self.epoch)):
                for place, arrays in batches:
                    assert place.split == split
                    parts.append(predictor(arrays))
                    if place.last:
                        break
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        facts: dict[str, Any] = {**self.facts, "history": [r.as_json() for r in self.history], "final": self.is_over}
        name = Name(self.attempt, self.epoch, self.batch)
        self.checkpoints.save(name, self.task.model.state_dict(), self._state(), facts, self._best_epochs())

    def _best_epochs(self) -> set[int]:
        if self.best is None:
            return set()
        metric, mode = self.best
        sign = 1 if mode == "max" else -1
        scored = [(sign * r.metrics[metric], r.epoch) for r in self.history if metric in r.metrics]
        return {max(scored)[1]} if scored else set()

    def _state(self) -> dict[str, Any]:
        """What a checkpoint needs beside weights and history; tensors, numbers and containers only."""
        state: dict[str, Any] = {
            "optimiser": self.optimiser.state_dict(),
            "sums": dict(self._sums),
            "seconds": self._seconds,
            "gradients": [None if p.grad is None else p.grad for g in self.optimiser.param_groups for p in g["params"]]
            if self.batch % self.config.accumulate
            else [],
            "random": random_state(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self._sums, self._seconds = dict(state["sums"]), float(state["seconds"])
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        for parameter, gradient in zip(parameters, state["gradients"], strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        set_random_state(state["random"])


class _Evaluated:
    """Swaps averaged weights in and out, and the mode with them."""

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


def _say(terms: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items())


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of every generator, as tensors and plain containers."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what `random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
