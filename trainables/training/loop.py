"""The training loop of every model: one object that stops after any batch and goes on from there, bit for bit.

One stream serves the whole run: the batches of an epoch, then those of its evaluation, and so on. Several workers
run the same loop in step: each reads and trains on its rows of every batch, predicts its shards of every
evaluation, and the first one evaluates and saves.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays, Executor, Part, cut, default_workers, stream
from ..contract import Scores, Task
from .checkpoints import Checkpoint, Checkpoints, Name
from .clipping import Clipping
from .config import LoopConfig, config_hash
from .evaluating import Evaluated, Evaluation
from .randomness import random_state, seed_everything, set_random_state
from .saving import Saver
from .team import Team


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
    """A task being trained. `run` yields after each epoch; what it yields is already saved.

    Into object storage an epoch is saved while the next one trains, and yielded when it has arrived there.
    """

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
        manifest: Mapping[str, Any] | None = None,
        best: tuple[str, str] | None = None,
        team: Team | None = None,
    ) -> None:
        """`make_task` is called here, after seeding, so that the first weights follow from the seed too. `manifest` is
        written into every checkpoint's; `best` names a metric and `max` or `min`: the checkpoint of its best epoch is
        kept."""
        self.team = team or Team()
        self.config, self.store = config, store
        self.checkpoints, self.attempt, self.best = checkpoints, attempt, best
        self.executor, self.workers = executor, workers or default_workers()
        self.manifest = {**(manifest or {}), "config": config_hash(config)}
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        seed_everything(config.seed)
        self.task = task = make_task()
        task.model.to(self.device).to(memory_format=torch.channels_last)
        self._losses = self.team.joined(task, sync_bn=config.sync_bn)
        self.optimiser = torch.optim.AdamW(task.param_groups(), lr=config.lr, weight_decay=config.weight_decay)
        self._top_lr = [group["lr"] for group in self.optimiser.param_groups]
        self.average = copy.deepcopy(task.model).requires_grad_(False) if config.ema else None
        for module in task.compiled() if config.compile else ():
            module.compile()
        self._evaluation = Evaluation(task, self.team, config.seed, self._autocast)
        self._clipping = Clipping(config.clip_norm, config.clip_quantile)
        self._saver = Saver(checkpoints if self.team.rank == 0 else None)
        self._coming: EpochResult | None = None  # an epoch whose checkpoint is on its way
        self.history: list[EpochResult] = []
        self.epoch, self.batch = 0, 0  # finished epochs; finished batches of the next
        self._sums: dict[str, float] = {}
        self._seconds = 0.0
        self._steps: int | None = None

    def resume(self) -> Checkpoint | None:
        """Goes on from the newest complete checkpoint, if there is one. Raises InputError when it is another
        Config's."""
        found = self._newest()
        if found is None:
            self._vary_by_rank()
            return None
        if found.manifest["config"] != self.manifest["config"]:
            raise InputError(f"{found.store.uri}/{found.name} was written under another Config")
        self.task.model.load_state_dict(found.model())
        self.history = [EpochResult(**entry) for entry in found.history]
        self.epoch, self.batch = found.name.epoch, found.name.batch
        self._restore(found.state())
        return found

    def _newest(self) -> Checkpoint | None:
        """The same checkpoint for every worker: the one that the first has found."""
        if self.checkpoints is None:
            return None
        found = self.checkpoints.newest() if self.team.rank == 0 else None
        name = self.team.from_first(found.name if found else None)
        return found or (self.checkpoints.open(name) if name else None)

    def _vary_by_rank(self) -> None:
        """Workers that draw the same numbers would drop the same units of different rows."""
        if self.team.rank:
            seed_everything(hash((self.config.seed, self.team.rank, self.epoch, self.batch)) % 2**31)

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
                yield from self._epoch(batches, stop)
            yield from self._arrived()
        finally:
            self._saver.close()
            if hasattr(batches, "close"):
                batches.close()

    def _parts(self) -> Iterator[Part]:
        """The rest of the run, from where it stands."""
        skip = self.batch
        for epoch in range(self.epoch, self.config.epochs):
            yield from map(self._share, self.plan("train", epoch)[skip:])
            skip = 0
            if self._evaluates(epoch + 1):
                yield from self._evaluation.parts(epoch)

    def _share(self, part: Part) -> Part:
        if self.team.size == 1:
            return part
        return dataclasses.replace(part, rows=part.rows.take(self.team.rows(part.count)))

    def plan(self, split: str, epoch: int) -> list[Part]:
        """The batches of an epoch. Raises InputError when there are none to train on."""
        rows = self.task.batch_rows(split)
        parts = cut(self.task.plan(split, epoch, self.config.seed), rows, epoch, split)
        if not parts and split == "train":
            raise InputError("nothing to train on: the training plan is empty")
        return parts

    def _evaluates(self, epoch: int) -> bool:
        return epoch % self.config.evaluate_every == 0 or epoch == self.config.epochs

    def _epoch(self, batches: Iterator[tuple[Part, Arrays]], stop: Callable[[], bool]) -> Iterator[EpochResult]:
        started = time.monotonic()
        self.task.model.train()
        total = self._steps_an_epoch()
        while self.batch < total:
            place, arrays = next(batches)
            assert (place.epoch, place.split, place.index) == (self.epoch, "train", self.batch)
            asked, landed = self._step(place, arrays, total, stop)
            self.batch += 1
            if landed or asked:
                yield from self._arrived()
            if asked:
                self._seconds += time.monotonic() - started
                self._save()
                self._saver.wait()
                raise Stopped
        yield from self._arrived()
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
        self._coming = result
        if self.team.from_first(self._saver.landed):
            yield from self._arrived()

    def _arrived(self) -> Iterator[EpochResult]:
        """The epoch whose checkpoint is on its way, once it has arrived."""
        if self._coming is not None:
            self._saver.wait()
            result, self._coming = self._coming, None
            yield result

    def _steps_an_epoch(self) -> int:
        if self._steps is None:
            self._steps = len(self.plan("train", 0))
        return self._steps

    def _step(self, place: Part, arrays: Arrays, total: int, stop: Callable[[], bool]) -> tuple[bool, bool]:
        """One batch. Whether the first worker was asked to stop, and whether its checkpoint has landed."""
        progress = (self.epoch + self.batch / total) / self.config.epochs
        for group, top in zip(self.optimiser.param_groups, self._top_lr, strict=True):
            group["lr"] = top * lr_factor(progress, self.config.warmup)
        batch = {name: self._to_device(array) for name, array in arrays.items()}
        weight = self.team.weight(place.count, summed=self.task.loss_is_sum)
        moves = (self.batch + 1) % self.config.accumulate == 0 or self.batch + 1 == total
        with nullcontext() if moves else self.team.alone(self._losses):
            with self._autocast():
                terms = self._losses(batch, progress)
            loss = torch.stack([term for term in terms.values() if term.requires_grad]).sum() * weight
            said = self._say_to_all(terms, loss, weight, stop)  # is added up while gradients are
            (loss / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
        asked, landed = self._hear(said, terms)
        if moves:
            self._clip()
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self._average()
        return asked, landed

    def _clip(self) -> None:
        found = self._clipping.clip(self.task.model.parameters())
        if found is not None:
            steps = self.batch % self.config.accumulate + 1  # that this one move is the mean of
            for name, value in (("train_gradient_norm", found.norm), ("train_spikes", float(found.spike))):
                self._sums[name] = self._sums.get(name, 0.0) + value * steps

    def _say_to_all(
        self, terms: Mapping[str, Tensor], loss: Tensor, weight: float, stop: Callable[[], bool]
    ) -> Callable[[], Tensor]:
        """Starts to add up over the workers: the terms, the loss, and what only the first worker knows."""
        first = self.team.rank == 0
        landed = first and self._coming is not None and self._saver.landed
        flags = torch.tensor([first and stop(), landed], dtype=torch.float64, device=loss.device)
        values = torch.stack([*terms.values()]).detach().double() * (weight / self.team.size)
        return self.team.sum(torch.cat([flags, values, (loss.detach().double() / self.team.size)[None]]))

    def _hear(self, said: Callable[[], Tensor], terms: Mapping[str, Tensor]) -> tuple[bool, bool]:
        """Takes the sums in. Raises NonFiniteError at every worker when one of them has such a loss."""
        asked, landed, *values = said().tolist()
        by_name = dict(zip([*terms, "loss"], values, strict=True))
        if not math.isfinite(by_name["loss"]):
            found = ", ".join(f"{name} {value:.4g}" for name, value in by_name.items() if name != "loss")
            where = f"epoch {self.epoch + 1}, batch {self.batch + 1}"
            raise NonFiniteError(f"the loss is {by_name['loss']} in {where}: {found}")
        for name, value in by_name.items():
            self._sums[f"train_{name}"] = self._sums.get(f"train_{name}", 0.0) + value
        return bool(asked), bool(landed)

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
        with self.evaluated_model():
            return self.team.from_first(self._evaluation.run(batches, self.epoch))

    def evaluated_model(self) -> Evaluated:
        """While open, the task's model is in eval mode and holds the averaged weights, if there are any."""
        return Evaluated(self.task.model, self.average)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        history = [result.as_json() for result in self.history]
        manifest: dict[str, Any] = {**self.manifest, "history": history, "final": self.is_over}
        name = Name(self.attempt, self.epoch, self.batch)
        self._saver.save(name, self.task.model.state_dict(), self._state(), manifest, self._best_epochs())

    def _best_epochs(self) -> set[int]:
        if self.best is None:
            return set()
        metric, mode = self.best
        sign = 1 if mode == "max" else -1
        scored = [(sign * r.metrics[metric], r.epoch) for r in self.history if metric in r.metrics]
        return {max(scored)[1]} if scored else set()

    def _state(self) -> dict[str, Any]:
        """What a checkpoint needs beside weights and history; tensors, numbers and containers only. All workers
        take part; the first one's is whole."""
        first, *others = self.team.gathered(random_state()) or [{}]
        state: dict[str, Any] = {
            "optimiser": self.optimiser.state_dict(),
            "sums": dict(self._sums),
            "seconds": self._seconds,
            "gradients": self._gradients() if self.batch % self.config.accumulate else [],
            "gradient_norms": self._clipping.state(),
            "random": first,
            "random_of_others": others,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def _gradients(self) -> list[Tensor | None]:
        """What has been added up for the next move of the weights: over the workers, their mean."""
        found: list[Tensor | None] = []
        for parameter in (p for g in self.optimiser.param_groups for p in g["params"]):
            if self.team.size > 1:  # one worker may have used a parameter that another has not
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                found.append(self.team.sum(own)() / self.team.size)
            else:
                found.append(parameter.grad)
        return found

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self._sums, self._seconds = dict(state["sums"]), float(state["seconds"])
        self._clipping.restore(state)
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        for parameter, gradient in zip(parameters, state["gradients"], strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        states = [state["random"], *state["random_of_others"]]
        if self.team.rank < len(states):
            set_random_state(states[self.team.rank])
        else:
            self._vary_by_rank()
