"""The training loop of every model: one object that stops after any batch and goes on from there, bit for bit.

One stream serves the whole run: the batches of an epoch, then those of its evaluation, and so on. Several workers
run the same loop in step: each reads and trains on its rows of every batch, predicts its shards of every evaluation,
and the first one evaluates and saves. `step` trains on a batch, `sums` adds up what an epoch measures, `state` is
what a checkpoint holds of all this.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays, Executor, Part, cut, default_workers, stream
from ..contract import Scores, Task
from . import state as training_state
from .adoption import codes, refuse_foreign
from .averaging import Evaluated
from .checkpoints import Checkpoint, Checkpoints, Name
from .config import LoopConfig, config_hash
from .evaluating import Evaluation
from .randomness import seed_everything, seed_worker
from .saving import Saver
from .schedules import Position
from .step import TrainStep
from .sums import EpochSums, NonFiniteError, Signals
from .team import Team

__all__ = ["EpochResult", "NonFiniteError", "Stopped", "Training"]

Batches = Iterator[tuple[Part, Arrays]]


class Stopped(Exception):  # noqa: N818  no error: somebody asked for it, and a checkpoint was written
    """Training was asked to stop and wrote a checkpoint."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch measured."""

    epoch: int  # finished epochs, from 1
    time_ms: int  # when it ended, since 1970
    seconds: float  # that it took, over all attempts
    metrics: Mapping[str, float]
    setting: Mapping[str, float]  # the post-hoc choice

    def as_json(self) -> dict[str, Any]:
        """The fields as plain values, for a manifest."""
        return dataclasses.asdict(self)


class Training:
    """A task being trained. `run` yields after each epoch; what it yields is already saved.

    Into object storage an epoch is saved while the next one trains, and yielded once its checkpoint is complete.
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
        provenance: Mapping[str, Any] | None = None,
        earlier_ids: Collection[str] = (),
        best: tuple[str, str] | None = None,
        team: Team | None = None,
    ) -> None:
        """`make_task` is called here, after seeding, so that the first weights follow from the seed too. `provenance`
        stands in every manifest: plain values that say whose training this is and of what data; `earlier_ids` are of
        sweeps whose checkpoints are this one's too. `best` names the objective's metric and `max` or `min`: the
        checkpoint of its best epoch is kept, and plateau watches it."""
        self.team = team or Team()
        self.config, self.store = config, store
        self.checkpoints, self.attempt, self.best = checkpoints, attempt, best
        self.executor, self.workers = executor, workers or default_workers()
        self.provenance = {**(provenance or {}), "config": config_hash(config)}
        self.earlier_ids = tuple(earlier_ids)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
        seed_everything(config.seed)
        self.task = task = make_task()
        task.model.to(self.device).to(memory_format=torch.channels_last)
        self.sums = EpochSums(self.team)
        self.step = TrainStep(task, config, self.team, self.device, self.sums, best)
        for module in task.compiled() if config.compile else ():
            module.compile()
        self._evaluation = Evaluation(task, self.team, config.seed, self.step.autocast)
        self._saver = Saver(checkpoints if self.team.rank == 0 else None)
        self._unreported: EpochResult | None = None  # an epoch whose checkpoint is being written
        self.history: list[EpochResult] = []
        self.epoch, self.batch = 0, 0  # finished epochs; finished batches of the next
        self.training_began_s: float | None = None  # when this attempt had read its first batch, since 1970

    def resume(self) -> Checkpoint | None:
        """Goes on from the newest complete checkpoint, and gives it, if there is one. Raises InputError when it is of
        another sweep, other data or another Config."""
        checkpoint = self._newest()
        if checkpoint is None:
            self._seed_worker()
            return None
        refuse_foreign(checkpoint, self.provenance, self.earlier_ids)
        if trained_by := codes(checkpoint, self.provenance):
            self.provenance["codes"] = trained_by
        self.task.model.load_state_dict(checkpoint.model())
        self.history = [EpochResult(**entry) for entry in checkpoint.history]
        self.epoch, self.batch = checkpoint.name.epoch, checkpoint.name.batch
        state = checkpoint.state()
        training_state.restore(state, self.step, self.sums)
        if not training_state.restore_random(state, self.team.rank):
            self._seed_worker()
        return checkpoint

    def _newest(self) -> Checkpoint | None:
        """The newest complete checkpoint; the first worker decides which, for all."""
        if self.checkpoints is None:
            return None
        checkpoint = self.checkpoints.newest() if self.team.rank == 0 else None
        name = self.team.broadcast(checkpoint.name if checkpoint else None)
        return checkpoint or (self.checkpoints.open(name) if name else None)

    def _seed_worker(self) -> None:
        seed_worker(self.config.seed, self.team.rank, self.epoch, self.batch)

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.config.epochs

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[EpochResult]:
        """Trains to the end. When `stop()` is true after a batch, writes a checkpoint and raises Stopped.

        Raises NonFiniteError for a loss that is not finite, InputError when there is nothing to train on, or schedules
        that can't be followed.
        """
        self._check_objective()
        batches = self._batches()
        try:
            while not self.is_over:
                yield from self._epoch(batches, stop)
            yield from self._report_saved()
        finally:
            self._saver.close()
            batches.close()

    def _check_objective(self) -> None:
        """Raises InputError for an objective that the task says it can't measure: nobody should learn it at the end."""
        unmeasured: list[str] = getattr(self.task, "unmeasured", list)()
        if self.best is not None and self.best[0] in unmeasured:
            raise InputError(f"{self.best[0]} can't be measured: the data has nothing of its kind to ask for")

    def _batches(self) -> Generator[tuple[Part, Arrays]]:
        """The arrays of the rest of the run, of training and evaluations, in order."""
        batches = stream(
            self._parts(), self.task.read, self.store or Store("."), executor=self.executor, workers=self.workers
        )
        try:
            for part, arrays in batches:
                if self.training_began_s is None:
                    self.training_began_s = time.time()
                yield part, arrays
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def _parts(self) -> Iterator[Part]:
        """The plan of the rest of the run, from where it stands."""
        skip = self.batch
        for epoch in range(self.epoch, self.config.epochs):
            yield from map(self._share, self.plan("train", epoch)[skip:])
            skip = 0
            if self._evaluates(epoch + 1):
                yield from self._evaluation.parts(epoch)

    def _share(self, part: Part) -> Part:
        """This worker's rows of a batch."""
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

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches of every training epoch. Raises InputError for none, or for schedules that can't be followed."""
        batches = len(self.plan("train", 0))
        self.step.rates.check(batches)
        return batches

    def _evaluates(self, epoch: int) -> bool:
        return epoch % self.config.evaluate_every == 0 or epoch == self.config.epochs

    def _epoch(self, batches: Batches, stop: Callable[[], bool]) -> Iterator[EpochResult]:
        """The rest of an epoch. Yields it, or the one before it, as soon as its checkpoint is complete."""
        started = time.monotonic()
        self.task.model.train()
        while self.batch < self.batches_per_epoch:
            part, arrays = next(batches)
            assert (part.epoch, part.split, part.index) == (self.epoch, "train", self.batch)
            position = Position(self.epoch, self.batch, self.batches_per_epoch)
            signals = self.step.run(part, arrays, position, lambda: self._signals(stop))
            self.batch += 1
            if signals.saved or signals.stop:
                yield from self._report_saved()
            if signals.stop:
                self.sums.seconds += time.monotonic() - started
                self._save()
                self._saver.wait()
                raise Stopped
        yield from self._report_saved()
        self._unreported = self._end_epoch(batches, started)
        if self.team.broadcast(self._saver.is_idle):
            yield from self._report_saved()

    def _signals(self, stop: Callable[[], bool]) -> Signals:
        """What the first worker knows after a batch; nothing at the others."""
        if self.team.rank:
            return Signals(stop=False, saved=False)
        saved = self._unreported is not None and self._saver.is_idle
        return Signals(stop(), saved)

    def _end_epoch(self, batches: Batches, started: float) -> EpochResult:
        """Evaluates an epoch that is trained, and saves it."""
        evaluated = self._evaluates(self.epoch + 1)
        scores = self._evaluate(batches) if evaluated else Scores({})
        metrics = {**self.sums.means(self.batches_per_epoch), **scores.metrics}
        self.step.rates.observe(metrics, evaluated=evaluated)
        self.epoch, self.batch = self.epoch + 1, 0
        seconds = self.sums.seconds + time.monotonic() - started
        result = EpochResult(self.epoch, time.time_ns() // 1_000_000, seconds, metrics, scores.setting)
        self.sums.reset()
        self.history.append(result)
        self._save()
        return result

    def _report_saved(self) -> Iterator[EpochResult]:
        """The epoch whose checkpoint is being written, once it is complete."""
        if self._unreported is not None:
            self._saver.wait()
            result, self._unreported = self._unreported, None
            yield result

    def _evaluate(self, batches: Batches) -> Scores:
        with self.evaluated_model():
            return self.team.broadcast(self._evaluation.run(batches, self.epoch))

    def evaluated_model(self) -> Evaluated:
        """While open, the task's model is in eval mode and holds the averaged weights, if there are any."""
        return Evaluated(self.task.model, self.step.average)

    def state(self) -> dict[str, Any]:
        """What a checkpoint written now would hold beside weights and history. All workers must ask together."""
        inside_move = self.batch % self.config.accumulate != 0
        return training_state.collect(self.step, self.sums, self.team, inside_move=inside_move)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        history = [result.as_json() for result in self.history]
        fields: dict[str, Any] = {**self.provenance, "history": history, "final": self.is_over}
        name = Name(self.attempt, self.epoch, self.batch)
        self._saver.save(name, self.task.model.state_dict(), self.state(), fields, self._best_epochs())

    def _best_epochs(self) -> set[int]:
        """The epoch whose checkpoint is kept beside the newest; none without a metric to compare."""
        if self.best is None:
            return set()
        metric, mode = self.best
        sign = 1 if mode == "max" else -1
        scored = [(sign * r.metrics[metric], r.epoch) for r in self.history if metric in r.metrics]
        return {max(scored)[1]} if scored else set()
