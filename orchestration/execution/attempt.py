"""An attempt of a trial: a pure function of its assignment, started from its newest complete checkpoint.

Exceptions never leave a trial; they are reported with their cause. Nothing here imports Ray, Optuna or MLflow.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Generator
from typing import Any

import torch

from ...datasets.storage.store import Store
from ...datasets.stream import Executor, default_workers
from ...trainables import coercion, discovery
from ...trainables.training.checkpoints import Checkpoints
from ...trainables.training.loop import Stopped, Training
from ...trainables.training.team import Team
from ..registry.wheel import code_hash
from ..search.failures import failure_of
from ..search.protocol import Assignment, Report, StopRequested


class DatasetCache:
    """The data set that a process has open, kept from trial to trial with the frames that it has decoded."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str | None], Any] = {}

    def get(self, trainable: str, uri: str | None) -> Any:
        """What a trainable's `open_data` gives for a URI, opened once; another one takes its place."""
        key = (trainable, uri)
        if key not in self._open:
            self._open = {key: discovery.load(trainable).open_data(Store(uri) if uri is not None else None)}
        return self._open[key]


class TrialRun:
    """An attempt of a trial. Nothing heavy happens before the first report is asked for."""

    def __init__(
        self, assignment: Assignment, datasets: DatasetCache, stop_requested: StopRequested = lambda: False
    ) -> None:
        self.assignment = assignment
        self._training: Training | None = None
        self._reports = self._run(datasets, stop_requested)

    def next_report(self) -> Report:
        """Trains until the next report. The first one has all epochs of earlier attempts too."""
        try:
            return next(self._reports)
        except Stopped:
            return self._report(stopped=True)
        except Exception as error:  # noqa: BLE001  the driver decides what it means
            return self._report(failure=failure_of(error))

    def close(self) -> None:
        """Stops readers and lets the model go."""
        self._reports.close()
        self._training = None
        if self.assignment.gpus:  # a full collection takes 0.2 s with torch loaded: only where memory is dear
            gc.collect()
            torch.cuda.empty_cache()

    def _run(self, datasets: DatasetCache, stop_requested: StopRequested) -> Generator[Report]:
        a = self.assignment
        torch.set_num_threads(a.cpus)
        self._training = training = make_training(a, datasets)
        training.resume()
        reported = 0
        if training.is_over:
            yield self._progress(training, 0)
            return
        for _ in training.run(stop_requested):
            yield self._progress(training, reported)
            reported = len(training.history)

    def _progress(self, training: Training, since: int) -> Report:
        entries = [entry.as_json() for entry in training.history[since:]]
        return self._report(entries=entries, final=training.is_over)

    def _report(self, **fields: Any) -> Report:
        a, began_s = self.assignment, training_began_s(self._training)
        return Report(number=a.number, attempt=a.attempt, training_began_s=began_s, **fields)


def make_training(a: Assignment, datasets: DatasetCache, team: Team | None = None) -> Training:
    """The training that an assignment describes, of one worker or of one in a team."""
    module = discovery.load(a.trainable)
    config = coercion.make_config(module.Config, a.config)
    data = datasets.get(a.trainable, a.data_uri)
    executor: Executor = "ray" if a.stream == "ray" else "threads"
    return Training(
        lambda: module.Task(config, data),
        config,
        Store(a.data_uri) if a.data_uri is not None else None,
        Checkpoints(Store(f"{a.storage}/{a.number}")),
        attempt=a.attempt,
        device="cuda" if a.gpus else "cpu",
        executor=executor,
        workers=max(a.cpus, 1) if executor == "threads" else default_workers(),
        provenance={
            "trial": f"{a.sweep}/{a.number}",
            "sweep_id": a.sweep_id,
            "term": a.term,
            "data": a.data_fingerprint,
            "code": _code(),
            "asked": a.asked,
        },
        earlier_ids=a.earlier_ids,
        best=a.best,
        team=team,
    )


@functools.cache
def _code() -> str:
    """The version of the code that this process runs."""
    return code_hash()


def training_began_s(training: Training | None) -> float | None:
    """When an attempt's first batch began, in seconds since 1970; None before it."""
    return training.training_began_s if training is not None else None
