"""Decides what happens next in a sweep, from the ledger alone. Knows neither Ray nor any model.

A backend asks for actions and passes on events, see `protocol`. Whatever is decided is written to the ledger before
anybody acts on it, in this order for every epoch: checkpoint (by the trial), ledger, MLflow. Killed anywhere, a new
driver adopts RUNNING trials from their newest checkpoints and the sweep ends as it would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from ...trainables.training.adoption import refuse_foreign
from ...trainables.training.checkpoints import Checkpoint, Checkpoints
from ..ledger.failure import FailedAttempt, Failure
from ..ledger.ledger import Ledger
from ..ledger.records import TrialRecord, failed_alike
from ..ledger.usage import devices_of
from ..spec.schema import SweepSpec
from .asking import PinnedTrial, Space, propose
from .assigning import assignment
from .budget import BudgetKeeper
from .discovery import make_pruner, make_sampler
from .failures import decide
from .protocol import Action, Assignment, NoTrial, Report, Room, Verdict
from .protocol import Observer as Observer
from .recorder import Recorder


class Driver:
    """The decisions of one sweep. The ledger's lease must be held."""

    def __init__(
        self,
        spec: SweepSpec,
        ledger: Ledger,
        *,
        space: Space,
        epochs: int,
        room: Room,
        posthoc: Mapping[str, Any],
        data_uri: str | None = None,
        data_fingerprint: str = "none",
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`epochs` are those of each trial; `posthoc` are Config fields that every trial gets beside what the space
        gives; `clock` is the budget's, see `BudgetKeeper`."""
        self.spec, self.ledger, self.space, self.epochs = spec, ledger, space, epochs
        self.posthoc = dict(posthoc)
        self.data_uri, self.data_fingerprint = data_uri, data_fingerprint
        self.room, self.observers = room, tuple(observers)
        self.live: dict[int, int] = {}  # number -> attempt
        self.halted: str | None = ledger.record.halted
        self.budget = BudgetKeeper(
            spec.budget, ledger, devices_of(spec.resources, room.gpus_per_worker), room.slots, clock
        )
        self._recorder = Recorder(spec, ledger, make_pruner(spec, epochs), self.budget, self._changed)
        self._stopping = False
        self._overtaken = ledger.overtaken
        self._waiting: deque[int] = deque(t.number for t in ledger.running())
        self._progressed: set[int] = set()
        for observer in self.observers:
            observer.attached(self)

    def checkpoints(self, number: int) -> Checkpoints:
        """A trial's checkpoints."""
        return self._recorder.checkpoints(number)

    # -- actions -----------------------------------------------------------------------------------------

    def next_action(self) -> Action:
        """What to do with a free slot. Raises LeaseTakenError when another driver has taken over."""
        if not self.ledger.still_ours():
            return NoTrial.WAIT
        self._follow()
        while not self.must_stop():
            if self._waiting:
                adopted = self._adopt(self._waiting.popleft())
                if adopted is not None:
                    return adopted
                continue
            if self.ledger.searched() >= self.spec.planned_trials:
                break
            return self._ask()
        return NoTrial.WAIT if self.live else NoTrial.FINISHED

    def must_stop(self) -> bool:
        """Whether no trial may start, and live ones are to write a checkpoint and end. Ask often: here a spent
        budget is noticed."""
        if not self._stopping and not self.halted and self._has_work():
            spent = self.budget.spent()
            if spent is not None:
                self._stopping = True
                self.ledger.update_sweep(spent=spent)
        return self._stopping or self.halted is not None

    def _has_work(self) -> bool:
        return bool(self.live or self._waiting) or self.ledger.searched() < self.spec.planned_trials

    def _ask(self) -> Assignment:
        self.budget.begin()
        number = len(self.ledger.trials)
        template, fields = propose(
            make_sampler(self.spec, self.room.slots),
            self.ledger.searched(),
            self.ledger.directions,
            self.ledger.trials,
            lambda trial: self.space(PinnedTrial(trial, self.spec.fixed)),
        )
        template.user_attrs = TrialRecord(
            config=self.config_of(fields), data_fingerprint=self.data_fingerprint, usage=self.budget.first_attempt()
        ).as_attributes()
        trial = self.ledger.create_trial(template)
        assert trial.number == number
        self._changed(number)
        return self._start(trial)

    def config_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's Config fields: what the space gave, under what the spec fixes."""
        return {"seed": self.spec.search.seed, **self.posthoc, **fields, **self.spec.fixed}

    def _adopt(self, number: int) -> Assignment | None:
        """A trial that was left RUNNING, or is to be tried again. None when its record says that it is over."""
        self.budget.begin()
        record = self.ledger.trial_record(number)
        if self._finish_what_failed(number, record):
            return None
        newest = self.checkpoints(number).newest()
        if newest is None and record.retry_of is not None:
            newest = self.checkpoints(record.retry_of).newest()
            if newest is not None:
                self.checkpoints(number).copy_from(newest)
        if newest is not None and self._halt_if_foreign(number, newest):
            return None
        if newest is not None and self._replay(number, newest) is Verdict.END:
            return None
        # batches of the next epoch are in a checkpoint only when its attempt was asked to stop
        stopped = newest is not None and newest.name.batch > 0 and newest.name.attempt == record.attempt
        self.ledger.update_trial(number, attempt=record.attempt + 1)
        self.budget.next_attempt(number, newest.history if newest is not None else (), stopped=stopped)
        self._changed(number)
        return self._start(self.ledger.trials[number])

    def _finish_what_failed(self, number: int, record: TrialRecord) -> bool:
        """Whether the trial's last attempt failed for good; the end is written if a crash had prevented that."""
        last = record.failure
        if last is None or last.attempt != record.attempt:
            return False
        if last.action == "infeasible":
            self._recorder.end_infeasible(number, last.failure.kind, last.failure.message)
        elif last.action == "fail":
            self._recorder.end(number, TrialState.FAIL, None, cause=last.failure.message)
        return last.action in ("infeasible", "fail")

    def _halt_if_foreign(self, number: int, newest: Checkpoint) -> bool:
        """Whether a checkpoint is not this sweep's: its results must not be taken for the trial's."""
        ours = {"sweep_id": self.ledger.record.id, "data": self.data_fingerprint}
        try:
            refuse_foreign(newest, ours, self.ledger.record.earlier_ids)
        except InputError as error:
            self.halt(f"trial {number}: {error}", Failure("bad_input", str(error)))
            return True
        return False

    def _replay(self, number: int, newest: Checkpoint) -> Verdict:
        """Reports what the checkpoint's history has and the ledger lacks."""
        # batches of the next epoch were trained: the newest was judged too
        return self._recorder.take(number, newest.history, bool(newest.manifest["final"]), judged=newest.name.batch > 0)

    def _start(self, trial: FrozenTrial) -> Assignment:
        record = TrialRecord.of(trial)
        self.live[trial.number] = record.attempt
        self.budget.attempt_started(trial.number)
        self._progressed.discard(trial.number)
        return assignment(self.spec, self.ledger, trial, self.room, self.data_uri, self.data_fingerprint)

    # -- events ------------------------------------------------------------------------------------------

    def set_room(self, room: Room) -> None:
        """Nodes have come or gone."""
        self.room = room
        self.budget.set_room(room.slots)

    def request_stop(self) -> None:
        """No trial is to start any more, and live ones are to write a checkpoint and end."""
        self._stopping = True

    def tick(self) -> None:
        """A moment has passed: the backend calls this several times a second. Raises LeaseTakenError when another
        driver has taken over, LedgerLostError when the ledger is gone."""
        self.ledger.watch()
        self._follow()
        self.budget.heartbeat()
        for observer in self.observers:
            observer.ticked()

    def _follow(self) -> None:
        """Takes over what another driver has left that was here while our lease was lost: trials that it ended or
        started again are no longer ours."""
        if self.ledger.overtaken == self._overtaken:
            return
        self._overtaken, ledger = self.ledger.overtaken, self.ledger
        running = {t.number: TrialRecord.of(t).attempt for t in ledger.running()}
        gone = [number for number, attempt in self.live.items() if running.get(number) != attempt]
        for number in gone:
            del self.live[number]
        self._waiting = deque(number for number in running if number not in self.live)
        self.halted = ledger.record.halted
        self.budget.read_anew(gone)

    def on_result(self, report: Report) -> Verdict:
        """A trial has reported. What an earlier attempt still says is ignored."""
        self._follow()
        number = report.number
        if self.live.get(number) != report.attempt:
            return Verdict.END
        if report.entries:
            self._progressed.add(number)
        if report.training_began_s is not None:
            self.budget.training_began(number, report.training_began_s)
        if report.failure is not None:
            return self.on_attempt_lost(number, report.attempt, report.failure)
        if report.stopped:
            self._stopping = True  # the trial has seen the mark before us: a trial asked for now would lack its result
            self._leave(number)
            self.budget.write_end(number, stopped=True)
            return Verdict.END
        verdict = self._recorder.take(number, report.entries, report.final)
        if verdict is Verdict.END:
            self._leave(number)
        return verdict

    def on_attempt_lost(self, number: int, attempt: int, failure: Failure) -> Verdict:
        """An attempt ended early: an exception, a lost or hung worker."""
        if self.live.get(number) != attempt:
            return Verdict.END
        self._leave(number)
        before = self.ledger.trial_record(number).failures
        retries = sum(f.action == "retry" for f in before)
        action = decide(failure, retries, self.spec.retry.max_retries, number in self._progressed)
        failed = FailedAttempt(failure, attempt, action, failure.location_hash)
        self.ledger.update_trial(number, failures=[*before, failed])
        self._changed(number)
        if action == "infeasible":
            self._recorder.end_infeasible(number, failure.kind, failure.message)
        elif action == "fail":
            self._recorder.end(number, TrialState.FAIL, None, cause=failure.message)
        else:
            self.budget.write_end(number)
            self._waiting.append(number)
        if action == "halt":
            self.halt(f"trial {number}: {failure.message}", failure)
        elif failure.kind == "error":
            self._halt_if_all_fail_alike(failure)
        return Verdict.END

    def _changed(self, number: int) -> None:
        for observer in self.observers:
            observer.trial_changed(number)

    def _leave(self, number: int) -> None:
        """A trial's attempt is over."""
        self.live.pop(number, None)
        self.budget.attempt_ended(number)

    def _halt_if_all_fail_alike(self, failure: Failure) -> None:
        """The same traceback in so many trials in a row is not bad luck."""
        alike = failed_alike(self.ledger.trials, self.ledger.record.forgiven, failure)
        if alike >= self.spec.retry.halt_after_same_error:
            self.halt(f"{alike} trials in a row ended with the same error: {failure.message}", failure)

    # -- ends --------------------------------------------------------------------------------------------

    def halt(self, why: str, failure: Failure | None = None) -> None:
        """Ends the sweep early because going on would be pointless; `resume` tries again."""
        self.halted = why
        self.ledger.update_sweep(halted=why)
        self.ledger.update_sweep(halted_with=failure)

    def forgive(self) -> None:
        """A halted sweep is resumed: what failed before no longer counts towards halting."""
        if self.halted is not None:
            self.ledger.update_sweep(forgiven=len(self.ledger.trials) - 1)
            self.ledger.update_sweep(halted=None)
            self.halted = None

    def retry_failed(self) -> list[int]:
        """Gives every failed trial a successor, which starts from its checkpoint; numbers of the new trials."""
        retried = {TrialRecord.of(t).retry_of for t in self.ledger.trials}
        failed = [t for t in self.ledger.trials if t.state == TrialState.FAIL and t.number not in retried]
        numbers = [self.ledger.create_retry(trial).number for trial in failed]
        self._waiting.extend(numbers)
        return numbers
