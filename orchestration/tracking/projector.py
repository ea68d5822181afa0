"""MLflow as a projection of the ledger and of histories: a parent run for each sweep, a child run for each trial.

Nothing is decided here. `Projector` uploads what MLflow lacks, and is safe to repeat: a run is looked up by its tags
before it is made, and a metric carries the time at which it was measured, so that sending it again gives the same row.

MLflow is imported inside functions: it takes two seconds, which a sweep's start does not wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ...datasets.problems import InputError
from ...trainables.training.checkpoints import Checkpoints
from ..ledger.ledger import Ledger
from ..ledger.status import budget_status
from .content import SPENT_PREFIX, SPENT_STEP, as_text, clean, metrics_of, params_of, trial_tags
from .runs import PARENT, SWEEP, SWEEP_ID, TRIAL, Runs

__all__ = ["SPENT_PREFIX", "SWEEP", "SWEEP_ID", "TRIAL", "Projector", "RefusedError"]

STATE = "refsweep.state"
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}
BATCH = 500  # metrics a request; MLflow takes 1000


class RefusedError(Exception):
    """MLflow is there and does not take some of what it was sent."""


class Projector(Runs):
    """Brings MLflow up to date with a ledger. Only the holder of the ledger's lease may use it."""

    def __init__(
        self,
        uri: str,
        ledger: Ledger,
        checkpoints: Callable[[int], Checkpoints],
        live: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """`checkpoints` gives those of a trial by its number: their manifests hold the history. `live` answers whether
        a trial is being run."""
        super().__init__(uri, ledger)
        self.checkpoints, self.live = checkpoints, live
        self._sent: dict[int, tuple[Any, ...]] = {}
        self._epochs: dict[int, int] = {}

    def forget(self, number: int | None = None) -> None:
        """As `Runs.forget`; what was sent is sent again."""
        super().forget(number)
        for known in (self._sent, self._epochs):
            if number is None:
                known.clear()
            else:
                known.pop(number, None)

    def trial(self, number: int) -> None:
        """Uploads a trial's parameters, metrics, tags and status, unless they are known to be there. Raises
        RefusedError, which names the trial, when MLflow answers and does not take them."""
        try:
            self._upload(number)
        except InputError:
            raise
        except Exception:
            if not self.answers():
                raise
            self.forget(number)  # somebody may have deleted its run, or the experiment
            try:
                self._upload(number)
            except Exception as error:
                why = clean(f"{type(error).__name__}: {error}").splitlines()[0][:300]
                raise RefusedError(f"MLflow refused trial {self.ledger.sweep}/{number}: {why}") from error

    def _upload(self, number: int) -> None:
        trial = self.ledger.trials[number]
        tags = {STATE: trial.state.name, **trial_tags(trial)}
        status = _STATUS.get(trial.state, "RUNNING" if self.live(number) else "KILLED")
        history = self._history(number)
        content = (tuple(sorted(tags.items())), status, len(history))
        if self._sent.get(number) == content:
            return
        run = self.run_of(trial)
        self._log(run, trial, history, tags)
        self._end(run, status, history)
        self._sent[number] = content

    def sweep(self, state: str) -> None:
        """Uploads the parent run's tags and status; `state` is running, stopped, finished or halted."""
        try:
            self._upload_sweep(state)
        except InputError:
            raise
        except Exception:
            if not self.answers():
                raise
            self.forget()
            self._upload_sweep(state)

    def _upload_sweep(self, state: str) -> None:
        best = self.ledger.best()
        tags = {STATE: state, "refsweep.trials": str(len(self.ledger.trials))}
        if best is not None:
            tags["refsweep.best"] = f"{self.ledger.sweep}/{best.number}"
        parent = self.parent_run()
        from mlflow.entities import RunTag

        run_tags, metrics = [RunTag(k, v) for k, v in tags.items()], list[Any]()
        if state != "running":
            metrics, spent = self._spent_so_far()
            run_tags.append(RunTag("refsweep.spent", as_text(spent)))
        self._send(self.client.log_batch, parent, metrics=metrics, tags=run_tags)
        self._end(parent, {"running": "RUNNING", "finished": "FINISHED"}.get(state, "KILLED"), [])

    def _spent_so_far(self) -> tuple[list[Any], str]:
        """The sweep's time at the moment its driver was last seen, and which budget is spent."""
        from mlflow.entities import Metric

        drivers = self.ledger.record.drivers
        known = budget_status(self.ledger, None)
        at_ms = int(drivers[-1].seen_s * 1000) if drivers else 0
        hours = {name: value for name, value in known.items() if name.endswith("_hours")} if drivers else {}
        return [Metric(f"{SPENT_PREFIX}{n}", v, at_ms, SPENT_STEP) for n, v in hours.items()], known["spent"] or ""

    def reconcile(self) -> dict[str, int]:
        """Uploads what MLflow lacks of all trials, and deletes runs of this sweep that the ledger does not name, such
        as a trial's second run. Returns the counts `trials` and `deleted`. Raises RefusedError, once everything else
        is there, with the trials that MLflow does not take."""
        self._see_what_is_there()
        refused = []
        for number in range(len(self.ledger.trials)):
            try:
                self.trial(number)
            except RefusedError as error:
                refused.append(str(error))
        deleted = 0
        named = {self.parent_run(), *self.ledger.record.run_ids.values()}
        for run in self.search():
            if run.info.run_id not in named:
                self._send(self.client.delete_run, run.info.run_id)
                deleted += 1
        if refused:
            raise RefusedError("\n".join(refused))
        return {"trials": len(self.ledger.trials), "deleted": deleted}

    def _see_what_is_there(self) -> None:
        """Forgets runs that somebody has deleted, and lets every child name the sweep's run as its parent."""
        self._experiment = self._parent = None
        parent, there = self.parent_run(), {str(run.info.run_id): run for run in self.search()}
        for number, run_id in list(self._runs.items()):
            if run_id in there:
                self._tag(there[run_id], {PARENT: parent})
            else:
                self.forget(number)

    # -- contents ----------------------------------------------------------------------------------------

    def _history(self, number: int) -> list[dict[str, Any]]:
        newest = self.checkpoints(number).newest(verify=False)
        return newest.history if newest else []

    def _log(self, run: str, trial: FrozenTrial, history: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        params = params_of(trial) if trial.number not in self._sent else []
        metrics = metrics_of(history[self._epochs.get(trial.number, 0) :], trial)
        run_tags = [RunTag(k, v) for k, v in tags.items()]
        for start in range(0, max(len(metrics), 1), BATCH):
            part = metrics[start : start + BATCH]
            self._send(self.client.log_batch, run, metrics=part, params=params, tags=run_tags)
            params, run_tags = [], []
        self._epochs[trial.number] = len(history)

    def _end(self, run: str, status: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Sets a run's status if it differs; the end of a finished run is that of its last epoch."""
        if run not in self._status:
            self._status[run] = self.client.get_run(run).info.status
        if self._status[run] == status:
            return
        if status == "RUNNING":
            self._send(self.client.update_run, run, status=status)
        else:
            ended = int(history[-1]["time_ms"]) if history else int(time.time() * 1000)
            self._send(self.client.set_terminated, run, status, ended)
        self._status[run] = status
