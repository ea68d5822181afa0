"""Decides what happens next in a sweep, from the ledger alone. Knows neither Ray nor any model.

An executor asks `next()` for trials to run, and says what they report and how they end. Whatever is decided is
written to the ledger before anybody acts on it, in this order for every epoch: checkpoint (by the trial),
ledger, MLflow. Killed anywhere, a new driver takes up RUNNING trials from their newest checkpoints and the
sweep ends as it would have.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...trainables.training.checkpoints import Checkpoint, Checkpoints
from ..ledger.ledger import Ledger, failure_entry, failures_of
from ..ledger.usage import USAGE, devices_of
from ..spec.schema import SweepSpec
from .budget import SPENT, Budget
from .failures import Failure, decide
from .protocol import Assignment, Report
from .pruning import judges, should_prune
from .sampling import Held, Space, make_sampler


class Next(Enum):
    """What `next` answers when there is no trial to start."""

    WAIT = "wait"  # some trial must end first
    FINISHED = "finished"


class Verdict(Enum):
    """What becomes of a trial that reported."""

    GO_ON = "go on"
    END = "end"


class Driver:
    """The decisions of one sweep. The ledger's lease must be held."""

    def __init__(
        self,
        spec: SweepSpec,
        ledger: Ledger,
        space: Space,
        *,
        posthoc: Mapping[str, Any],
        data: str | None,
        fingerprint: str,
        slots: int = 1,
        gpus: float = 0.0,
        changed: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`gpus` are one worker's; `changed` hears the number of every trial whose record has changed; `clock` gives
        seconds since 1970."""
        self.spec, self.ledger, self.space = spec, ledger, space
        self.posthoc, self.data, self.fingerprint = dict(posthoc), data, fingerprint
        self.slots, self.gpus, self.changed = slots, gpus, changed
        self.pruning = spec.pruning
        self.live: dict[int, int] = {}  # number -> attempt
        self.halted: str | None = ledger.attributes.get("halted")
        self.stopping = False
        self.waits_for: str | None = None  # nodes, in words
        self._waiting: deque[int] = deque(t.number for t in ledger.running())
        self._progressed: set[int] = set()
        self.budget = Budget(spec.budget, ledger, devices_of(spec.resources, gpus), slots, clock)

    # -- what to run -------------------------------------------------------------------------------------

    def next(self) -> Assignment | Next:
        """The next trial to start. Raises LeaseTakenError when another driver has taken over."""
        if not self.ledger.still_ours():
            return Next.WAIT
        while not self.must_stop():
            if self._waiting:
                taken = self._take_up(self._waiting.popleft())
                if taken is not None:
                    return taken
                continue
            if self.ledger.searched() >= self.spec.planned_trials:
                break
            return self._ask()
        return Next.WAIT if self.live else Next.FINISHED

    def must_stop(self) -> bool:
        """Whether no trial may start, and live ones are to write a checkpoint and end. Ask often: here a spent
        budget is noticed."""
        if not self.stopping and not self.halted and self._work_left():
            spent = self.budget.spent()
            if spent is not None:
                self.stopping = True
                self.ledger.set_attribute(SPENT, spent)
        return self.stopping or self.halted is not None

    def _work_left(self) -> bool:
        return bool(self.live or self._waiting) or self.ledger.searched() < self.spec.planned_trials

    def _ask(self) -> Assignment:
        self.budget.begin()
        search = self.spec.search
        number = len(self.ledger.trials)
        sampler = make_sampler(
            search.sampler,
            search.seed,
            self.ledger.searched(),
            startup=search.startup,
            slots=self.slots,
            grid=search.grid,
        )
        made = self.ledger.ask(
            sampler,
            lambda trial: self.space(Held(trial, self.spec.fixed)),
            lambda fields: {
                "config": self.config_of(fields),
                "attempt": 1,
                "data": self.fingerprint,
                USAGE: self.budget.first(),
            },
        )
        assert made.number == number
        self.changed(number)
        return self._start(made)

    def config_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's Config fields: what the space gave, under what the spec fixes."""
        return {"seed": self.spec.search.seed, **self.posthoc, **fields, **self.spec.fixed}

    def _take_up(self, number: int) -> Assignment | None:
        """A trial that was left RUNNING, or is to be tried again. None when its record says that it is over."""
        self.budget.begin()
        trial = self.ledger.trials[number]
        if self._finish_what_failed(trial):
            return None
        newest = self.checkpoints(number).newest()
        if newest is None and "retry_of" in trial.user_attrs:
            newest = self.checkpoints(int(trial.user_attrs["retry_of"])).newest()
            if newest is not None:
                self.checkpoints(number).copy_from(newest)
        if newest is not None and self._replay(number, newest) is Verdict.END:
            return None
        self.ledger.note(number, "attempt", int(trial.user_attrs["attempt"]) + 1)
        self.budget.again(number, newest.history if newest is not None else ())
        self.changed(number)
        return self._start(self.ledger.trials[number])

    def _finish_what_failed(self, trial: FrozenTrial) -> bool:
        """Whether the trial's last attempt failed for good; the end is written if a crash had prevented that."""
        failures = failures_of(trial)
        if not failures or failures[-1]["attempt"] != trial.user_attrs["attempt"]:
            return False
        if failures[-1]["action"] == "infeasible":
            self._end_infeasible(trial.number, failures[-1]["kind"], failures[-1]["message"])
        elif failures[-1]["action"] == "fail":
            self._end(trial.number, TrialState.FAIL, None, cause=failures[-1]["message"])
        return failures[-1]["action"] in ("infeasible", "fail")

    def _replay(self, number: int, found: Checkpoint) -> Verdict:
        """Reports what the checkpoint's history has and the ledger lacks."""
        # batches of the next epoch were trained: the newest was judged too
        return self._take(number, found.history, bool(found.manifest["final"]), judged=found.name.batch > 0)

    def _start(self, trial: FrozenTrial) -> Assignment:
        attempt = int(trial.user_attrs["attempt"])
        self.live[trial.number] = attempt
        self.budget.started(trial.number)
        self._progressed.discard(trial.number)
        objectives = self.spec.objectives
        return Assignment(
            sweep=self.spec.name,
            number=trial.number,
            attempt=attempt,
            trainable=self.spec.trainable,
            config=trial.user_attrs["config"],
            data=self.data,
            fingerprint=self.fingerprint,
            storage=f"{self.spec.storage.rstrip('/')}/{self.spec.name}",
            best=(objectives[0].metric, objectives[0].mode) if len(objectives) == 1 else None,
            stream=self.spec.stream,
            workers=self.spec.resources.worker_range,
            cpus=self.spec.resources.cpus_per_worker,
            gpus=self.gpus,
        )

    def checkpoints(self, number: int) -> Checkpoints:
        """Of a trial."""
        return Checkpoints(Store(self.spec.storage).child(f"{self.spec.name}/{number}"))

    # -- what happened -----------------------------------------------------------------------------------

    def on_report(self, report: Report) -> Verdict:
        """A trial has something to say. What an earlier attempt still says is not heard."""
        number = report.number
        if self.live.get(number) != report.attempt:
            return Verdict.END
        if report.entries:
            self._progressed.add(number)
        if report.failure is not None:
            return self.on_failure(number, report.attempt, report.failure)
        if report.stopped:
            self.stopping = True  # the trial has seen the mark before us: a trial asked for now would lack its result
            self._leaves(number)
            return Verdict.END
        verdict = self._take(number, report.entries, report.final)
        if verdict is Verdict.END:
            self._leaves(number)
        return verdict

    def _leaves(self, number: int) -> None:
        """A trial's attempt is over."""
        self.live.pop(number, None)
        self.budget.left(number)

    def _take(self, number: int, entries: Sequence[Mapping[str, Any]], final: bool, *, judged: bool = False) -> Verdict:
        """Writes epochs in order and judges the newest: a trial trains on only after those before were judged, and
        what other trials have reached since then must not end it in retrospect."""
        reported = self.ledger.reported(number)
        for entry in entries:
            values = self._values(entry)
            if values is None:
                continue
            epoch = int(entry["epoch"])
            if not all(map(math.isfinite, values)):
                last = f"{self.spec.objectives[0].metric} is {values[0]} in epoch {epoch}"
                self._end_infeasible(number, "non_finite", last)
                return Verdict.END
            if epoch not in reported:
                self.ledger.report(number, epoch, values)
                self.changed(number)
            if entry is entries[-1] and not judged and self._is_hopeless(number, epoch):
                self._end(number, TrialState.PRUNED, values, entries, cause=f"pruned after epoch {epoch}")
                return Verdict.END
        if not final:
            return Verdict.GO_ON
        values = self._values(entries[-1]) if entries else None
        if values is None:
            raise InputError(f"trial {number} ended without {', '.join(o.metric for o in self.spec.objectives)}")
        self._end(number, TrialState.COMPLETE, values, entries)
        return Verdict.END

    def _is_hopeless(self, number: int, epoch: int) -> bool:
        if not judges(self.pruning, epoch):
            return False
        values = {t.number: t.intermediate_values for t in self.ledger.trials}
        return should_prune(self.pruning, number, epoch, values)

    def _values(self, entry: Mapping[str, Any]) -> list[float] | None:
        """The objectives of an epoch, None where it was not evaluated."""
        metrics = entry["metrics"]
        names = [o.metric for o in self.spec.objectives]
        return [float(metrics[n]) for n in names] if all(n in metrics for n in names) else None

    def on_failure(self, number: int, attempt: int, failure: Failure) -> Verdict:
        """An attempt ended early: an exception, a lost or hung worker."""
        if self.live.get(number) != attempt:
            return Verdict.END
        self._leaves(number)
        before = failures_of(self.ledger.trials[number])
        retries = sum(f["action"] == "retry" for f in before)
        action = decide(failure, retries, self.spec.retry.max_retries, number in self._progressed)
        self.ledger.note(number, "failures", [*before, failure_entry(failure, attempt, action)])
        self.changed(number)
        if action == "infeasible":
            self._end_infeasible(number, failure.kind, failure.message)
        elif action == "fail":
            self._end(number, TrialState.FAIL, None, cause=failure.message)
        else:
            self._waiting.append(number)
        if action == "halt":
            self.halt(f"trial {number}: {failure.message}", failure)
        elif failure.kind == "error":
            self._halt_if_all_fail_alike(failure)
        return Verdict.END

    def _halt_if_all_fail_alike(self, failure: Failure) -> None:
        """The same traceback in so many trials in a row is not bad luck."""
        forgiven = int(self.ledger.attributes.get("forgiven", -1))
        alike = 0
        for trial in reversed(self.ledger.trials):
            failures = failures_of(trial)
            if trial.number <= forgiven or trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                break
            if not failures:
                continue
            if failures[-1]["mark"] != failure.mark:
                break
            alike += 1
        if alike >= self.spec.retry.halt_after_same_error:
            self.halt(f"{alike} trials in a row ended with the same error: {failure.message}", failure)

    def halt(self, why: str, failure: Failure | None = None) -> None:
        """Ends the sweep early because going on would be vain; `resume` forgives."""
        self.halted = why
        self.ledger.set_attribute("halted", why)
        self.ledger.set_attribute("halted_with", failure.as_json() if failure else None)

    def forgive(self) -> None:
        """A halted sweep is resumed: what failed before no longer counts towards halting."""
        if self.halted is not None:
            self.ledger.set_attribute("forgiven", len(self.ledger.trials) - 1)
            self.ledger.set_attribute("halted", None)
            self.halted = None

    def _end_infeasible(self, number: int, kind: str, message: str) -> None:
        self.ledger.violate(number, kind)
        known = self.ledger.trials[number].intermediate_values
        last = [known[max(known)]] if known and len(self.spec.objectives) == 1 else None
        self._end(number, TrialState.PRUNED, last, cause=f"infeasible: {message}")

    def _end(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        entries: Sequence[Mapping[str, Any]] = (),
        *,
        cause: str | None = None,
    ) -> None:
        """A trial's end and what is known of it then, in one write, which may be repeated."""
        self._leaves(number)
        newest = self.checkpoints(number).newest(verify=False)
        history = newest.history if newest is not None else []
        notes: dict[str, Any] = {USAGE: self.budget.closing(number, history)}
        if cause is not None:
            notes["cause"] = cause
        if newest is not None:
            notes["checkpoint"] = str(newest.name).rpartition(".")[0]
            notes["setting"] = dict(history[-1]["setting"]) if history else {}
        self.ledger.tell(number, state, values, notes)
        self.changed(number)

    def retry_failed(self) -> list[int]:
        """Makes a successor of every failed trial that has none; numbers of the new trials. Each starts from the
        failed one's checkpoint."""
        taken = {t.user_attrs.get("retry_of") for t in self.ledger.trials}
        made = []
        for trial in list(self.ledger.trials):
            if trial.state == TrialState.FAIL and trial.number not in taken:
                successor = self.ledger.succeed(trial)
                made.append(successor.number)
                self._waiting.append(successor.number)
        return made


def run_inline(driver: Driver) -> None:
    """Runs a sweep in this process, one trial after the other, without Ray."""
    from ..execution.attempt import DatasetCache, TrialRun

    datasets = DatasetCache()
    while True:
        assignment = driver.next()
        if isinstance(assignment, Next):
            assert assignment is Next.FINISHED, "a trial is live that nobody runs"
            driver.budget.end()
            return
        run = TrialRun(assignment, datasets, driver.must_stop)
        try:
            while driver.on_report(run.next_report()) is Verdict.GO_ON:
                pass
        finally:
            run.close()
