"""A trial of several workers: Ray Train, held by the same reused Tune actor that runs trials of one worker.

`TorchTrainer.fit()` runs in a thread of that actor. The first worker puts what it has to say into a mailbox, an
actor without resources, and takes the verdict from there; the others learn it from the first. So a trial ends by a
verdict at an epoch's end and never by a kill, and Ray Train gives back what it holds. Retries are the ledger's: a
failed fit is a failed attempt.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...trainables.training.loop import Stopped, Training
from ...trainables.training.team import ProcessTeam
from ..ledger.failure import Failure
from ..search.failures import failure_of, lost_worker
from ..search.protocol import Assignment, Report, report_as_text, report_from_text
from .attempt import DatasetCache, make_training, training_began_s
from .process_group import ProcessGroup
from .stopping import StopWatch

START_POLL_S = 10.0  # how often a trial reports that it waits for its workers to start
CAUSE_TIMEOUT_S = 40.0  # how long the cause of a failure may come after the failures that follow from it
# how often the controller looks at its workers decides how soon a finished fit is noticed
TRAIN_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_METRICS_ENABLED": "0"}


class Mailbox:
    """Between the first worker of a trial and the actor that holds it."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[str] = asyncio.Queue()
        self._verdicts: asyncio.Queue[bool] = asyncio.Queue()

    async def post(self, report: str) -> None:
        """Puts a report in; called by the worker."""
        await self._reports.put(report)

    async def take(self, timeout_s: float) -> str | None:
        """The next report, as text; None when there is none within the timeout."""
        try:
            return await asyncio.wait_for(self._reports.get(), timeout_s)
        except TimeoutError:
            return None

    async def answer(self, go_on: bool) -> None:
        """Gives the verdict on the last report."""
        await self._verdicts.put(go_on)

    async def verdict(self) -> bool:
        """Waits for the verdict on the last report; called by the worker."""
        return await self._verdicts.get()


class WorkersRun:
    """An attempt of a trial with several workers; used like `TrialRun`."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._mailbox: Any = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._started = self._owes_answer = False

    def next_report(self) -> Report:
        """The workers' next report, or that they wait to start."""
        if self._thread is None:
            self._start()
        self._reply(True)
        while True:
            text = ray.get(self._mailbox.take.remote(START_POLL_S if not self._started else 1.0))
            if text is not None:
                return self._received(report_from_text(text))
            if not self._thread_alive():
                return self._report(failure=self._ended())
            if not self._started:
                return self._report(waiting=f"for {_workers(self.assignment)} to start")

    def close(self) -> None:
        """Ends the workers after their last report, and waits for Ray Train to give back what it holds."""
        if self._thread is not None:
            self._reply(False)
            self._thread.join()
            ray.kill(self._mailbox)

    def _start(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        name = mailbox_name(self.assignment)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here, name=name).remote()
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            fit(self.assignment, self._mailbox)
        except BaseException as error:  # noqa: BLE001  reported as the trial's failure
            self._error = error

    def _thread_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _received(self, report: Report) -> Report:
        self._started = True
        if report.failure is not None:
            began_s = report.training_began_s
            return self._report(failure=self._cause(report.failure), training_began_s=began_s)
        self._owes_answer = not (report.final or report.stopped or report.started)
        return report

    def _cause(self, failure: Failure) -> Failure:
        """The failure that others follow from: a worker whose partner is gone fails too, and may report it first."""
        until = time.monotonic() + CAUSE_TIMEOUT_S
        while failure.kind == "lost" and time.monotonic() < until:
            text = ray.get(self._mailbox.take.remote(0.5))
            other = report_from_text(text).failure if text is not None else None
            if other is not None and other.kind != "lost":
                return other
            if text is None and not self._thread_alive():
                return self._ended()
        return failure

    def _ended(self) -> Failure:
        """Why the fit is over, as Ray Train reports it."""
        if self._error is None:
            return Failure("lost", "the workers ended without a report")
        texts = [str(e) for e in getattr(self._error, "worker_failures", {}).values() if isinstance(e, RayError)]
        failures = [lost_worker(text) for text in texts or [str(self._error)]]
        return next((f for f in failures if f.kind != "lost"), failures[0])

    def _report(self, **fields: Any) -> Report:
        return Report(number=self.assignment.number, attempt=self.assignment.attempt, **fields)

    def _reply(self, go_on: bool) -> None:
        if self._owes_answer:
            self._owes_answer = False
            ray.get(self._mailbox.answer.remote(go_on))


def mailbox_name(a: Assignment) -> str:
    """Names of actors are unique in a job, and Tune may set one attempt up in two actors: hence the random end."""
    return f"refsweep/{a.sweep}/{a.sweep_id}/{a.number}.{a.attempt}/{uuid.uuid4().hex[:12]}"


def _workers(a: Assignment) -> str:
    low, high = a.workers
    count = str(low) if low == high else f"{low} to {high}"
    return f"{count} workers of {a.cpus} CPUs and {a.gpus:g} GPUs each"


def fit(a: Assignment, mailbox: Any) -> None:
    """Runs the workers of a trial to their end. Raises what ended them early."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.update({name: os.environ.get(name, value) for name, value in TRAIN_SETTINGS.items()})
    low, high = a.workers
    with tempfile.TemporaryDirectory(prefix="refsweep-train-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TorchTrainer(
            work,
            train_loop_config={"assignment": asdict(a), "mailbox": mailbox},
            torch_config=ProcessGroup(backend="nccl" if a.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=low if low == high else (low, high),
                use_gpu=a.gpus > 0,
                resources_per_worker={"CPU": a.cpus, **({"GPU": a.gpus} if a.gpus else {})},
                placement_strategy="PACK",
            ),
            run_config=RunConfig(
                name=f"{a.sweep}-{a.number}-{a.attempt}-{a.sweep_id}",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0),
            ),
        ).fit()


def work(config: dict[str, Any]) -> None:
    """The training loop of every worker."""
    a, mailbox = Assignment(**config["assignment"]), config["mailbox"]
    torch.set_num_threads(a.cpus)
    team = ProcessTeam("cuda" if a.gpus else "cpu")
    reporter = WorkerReporter(a, mailbox, first=team.rank == 0)
    watch: Callable[[], bool] = lambda: False  # noqa: E731
    try:
        if team.rank == 0:
            reporter(started=True)
            watch = StopWatch(a.storage)
        reporter.training = training = make_training(a, DatasetCache(), team)
        training.resume()
        if training.is_over:
            reporter(entries=[entry.as_json() for entry in training.history], final=True)
            return
        reported = 0
        for _ in training.run(watch):
            entries = [entry.as_json() for entry in training.history[reported:]]
            reported = len(training.history)
            reporter(entries=entries, final=training.is_over)
            if training.is_over or not team.broadcast(reporter.verdict()):
                return
    except Stopped:
        reporter(stopped=True)
    except Exception as error:  # the driver decides what it means
        reporter.failure(error)
        raise


class WorkerReporter:
    """Reports a trial's progress from its first worker, and a failure from any."""

    def __init__(self, a: Assignment, mailbox: Any, *, first: bool) -> None:
        self._a, self._mailbox, self._first = a, mailbox, first
        self.training: Training | None = None  # once it is made

    def __call__(self, **fields: Any) -> None:
        if self._first:
            self._post(**fields)

    def verdict(self) -> bool:
        """Whether to go on; only the first worker knows."""
        return bool(ray.get(self._mailbox.verdict.remote())) if self._first else True

    def failure(self, error: Exception) -> None:
        """Reports why this worker ends, whichever it is."""
        failure = failure_of(error)
        if _partner_is_gone(error):
            failure = Failure("lost", f"a partner is gone: {failure.message}", failure.traceback)
        self._post(failure=failure)

    def _post(self, **fields: Any) -> None:
        began_s = training_began_s(self.training)
        report = Report(number=self._a.number, attempt=self._a.attempt, training_began_s=began_s, **fields)
        ray.get(self._mailbox.post.remote(report_as_text(report)))


def _partner_is_gone(error: Exception) -> bool:
    """Whether an exchange between workers failed: the cause is elsewhere."""
    text = str(error).lower()
    words = ("connection closed by peer", "connection reset by peer", "connection refused", "nccl", "gloo")
    exchange_failed = isinstance(error, RuntimeError) and any(word in text for word in words)
    return exchange_failed or isinstance(error, torch.distributed.DistError)
