"""One trial: a pure function of its assignment, started from its newest complete checkpoint.

`TrialRun` runs it in this process. `TuneTrial` is the same inside a Ray Tune actor, which is reused from trial
to trial: no process starts and nothing is imported again. Of several workers it holds a Ray Train run. Exceptions
never leave a trial; they are reported with their cause. Nothing here imports Optuna or MLflow: workers need neither.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch
from ray import tune

from ...datasets.storage.store import Store
from ...datasets.stream import Executor, default_workers
from ...trainables import coercion, discovery
from ...trainables.training.checkpoints import Checkpoints
from ...trainables.training.loop import Stopped, Training
from ...trainables.training.team import Team
from ..search.failures import failure_of
from ..search.protocol import STOP_MARK, Assignment, Report, report_as_text
from .workers import WorkersRun

STOP_POLL_S = 2.0


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
        self, assignment: Assignment, datasets: DatasetCache, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.assignment = assignment
        self._reports = self._run(datasets, stop)

    def next_report(self) -> Report:
        """Trains until there is something to say. The first report has all epochs of earlier attempts too."""
        a = self.assignment
        try:
            return next(self._reports)
        except Stopped:
            return Report(number=a.number, attempt=a.attempt, stopped=True)
        except Exception as error:  # noqa: BLE001  whatever a trial raises is the sweep's to judge
            return Report(number=a.number, attempt=a.attempt, failure=failure_of(error))

    def close(self) -> None:
        """Stops readers and lets the model go."""
        self._reports.close()
        if self.assignment.gpus:  # a full collection takes 0.2 s with torch loaded: only where memory is dear
            gc.collect()
            torch.cuda.empty_cache()

    def _run(self, datasets: DatasetCache, stop: Callable[[], bool]) -> Generator[Report]:
        a = self.assignment
        torch.set_num_threads(a.cpus)
        training = make_training(a, datasets)
        training.resume()
        reported = 0
        if training.is_over:
            yield self._report(training, 0)
            return
        for _ in training.run(stop):
            yield self._report(training, reported)
            reported = len(training.history)

    def _report(self, training: Training, since: int) -> Report:
        entries = [entry.as_json() for entry in training.history[since:]]
        a = self.assignment
        return Report(number=a.number, attempt=a.attempt, entries=entries, final=training.is_over)


def make_training(a: Assignment, datasets: DatasetCache, team: Team | None = None) -> Training:
    """The training that an assignment describes, of one worker or of one in a team."""
    module = discovery.load(a.trainable)
    config = coercion.make_config(module.Config, a.config)
    data = datasets.get(a.trainable, a.data)
    executor: Executor = "ray" if a.stream == "ray" else "threads"
    return Training(
        lambda: module.Task(config, data),
        config,
        Store(a.data) if a.data is not None else None,
        Checkpoints(Store(f"{a.storage}/{a.number}")),
        attempt=a.attempt,
        device="cuda" if a.gpus else "cpu",
        executor=executor,
        workers=max(a.cpus, 1) if executor == "threads" else default_workers(),
        manifest={"trial": f"{a.sweep}/{a.number}", "data": a.fingerprint},
        best=a.best,
        team=team,
    )


class StopWatch:
    """Looks every two seconds whether the sweep's folder holds the mark that asks its trials to end."""

    def __init__(self, storage: str) -> None:
        self._store, self._asked, self._end = Store(storage), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="stop-watch", daemon=True)
        self._thread.start()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def close(self) -> None:
        """Looks no more."""
        self._end.set()

    def _look(self) -> None:
        while not self._end.wait(STOP_POLL_S):
            try:
                if self._store.exists(STOP_MARK):
                    self._asked.set()
                    return
            except OSError:
                continue  # the storage is away for a while: training goes on


class TuneTrial(tune.Trainable):
    """A reused Tune actor. `setup` and `reset_config` only remember the assignment: Tune may set one trial up in
    two actors, so folders, models and device memory are touched in the first step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Remembers what to run."""
        self._datasets = DatasetCache()
        self._watch: StopWatch | None = None
        self._run: TrialRun | WorkersRun | None = None
        self._assigned = config["assignment"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The same actor for the next trial."""
        self._forget()
        self._assigned = new_config["assignment"]
        return True

    def step(self) -> dict[str, Any]:
        """One report; `done` after the last."""
        if self._run is None:
            assignment = Assignment(**self._assigned)
            if assignment.workers == (1, 1):
                self._watch = self._watch or StopWatch(assignment.storage)
                self._run = TrialRun(assignment, self._datasets, self._watch)
            else:
                self._run = WorkersRun(assignment)
        report = self._run.next_report()
        return {"report": report_as_text(report), "done": report.final or report.stopped or report.failure is not None}

    def cleanup(self) -> None:
        """The actor ends."""
        self._forget()
        if self._watch is not None:
            self._watch.close()

    def _forget(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None
