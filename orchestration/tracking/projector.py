"""MLflow as a projection of the ledger and of histories: a parent run for each sweep, a child run for each trial.

Nothing is decided here. `Projector` uploads what MLflow lacks, and is safe to repeat: a run is looked up by its tag
before it is made, and a metric carries the time at which it was measured, so that sending it again gives the same row.

MLflow is imported inside functions: it takes two seconds, which a sweep's start does not wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ...trainables.training.checkpoints import Checkpoints
from ..ledger.accounts import shares
from ..ledger.ledger import Ledger
from ..ledger.records import TrialRecord
from ..ledger.status import budget_status
from ..ledger.usage import Kind, attempts_of
from .client import experiment_id, make_client

SWEEP, TRIAL, STATE = "refsweep.sweep", "refsweep.trial", "refsweep.state"
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED", TrialState.FAIL: "FAILED"}
SPENT_PREFIX = "spent."  # of metrics about device time
SPENT_STEP = 1  # of these: step 0 has what earlier versions wrote, in other accounts; MLflow shows the last step
BATCH = 500  # metrics a request; MLflow takes 1000


class Projector:
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
        self.uri, self.ledger, self.checkpoints, self.live = uri, ledger, checkpoints, live
        self._client: Any = None
        self._experiment: str | None = None
        self._parent: str | None = None
        self._runs: dict[int, str] = {}
        self._sent: dict[int, tuple[Any, ...]] = {}
        self._epochs: dict[int, int] = {}
        self._status: dict[str, str] = {}  # of runs, as they were left

    def _send(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Every write to MLflow goes through here; tests crash in it."""
        return what(*args, **kwargs)

    @property
    def client(self) -> Any:
        """MLflow's client, made when it is first needed: the tables of a new SQLite file take four seconds."""
        if self._client is None:
            self._client = self._send(make_client, self.uri)
        return self._client

    def trial(self, number: int) -> None:
        """Uploads a trial's parameters, metrics, tags and status, unless they are known to be there."""
        trial = self.ledger.trials[number]
        tags, status = self._tags(trial), _STATUS.get(trial.state, "RUNNING" if self.live(number) else "KILLED")
        history = self._history(number)
        content = (tuple(sorted(tags.items())), status, len(history))
        if self._sent.get(number) == content:
            return
        run = self._run_of(trial)
        self._log(run, number, trial, history, tags)
        self._end(run, status, history)
        self._sent[number] = content

    def sweep(self, state: str) -> None:
        """Uploads the parent run's tags and status; `state` is running, stopped, finished or halted."""
        best = self.ledger.best()
        tags = {STATE: state, "refsweep.trials": str(len(self.ledger.trials))}
        if best is not None:
            tags["refsweep.best"] = f"{self.ledger.sweep}/{best.number}"
        parent = self._parent_run()
        from mlflow.entities import RunTag

        run_tags, metrics = [RunTag(k, v) for k, v in tags.items()], list[Any]()
        if state != "running":
            metrics, spent = self._spent_so_far()
            run_tags.append(RunTag("refsweep.spent", spent))
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
        """Uploads what MLflow lacks of all trials, and deletes runs that the ledger does not name, such as a trial's
        second run. Returns the counts `trials` and `deleted`."""
        deleted = 0
        for run in self._search(f"tags.`{SWEEP}` = '{self.ledger.sweep}'"):
            name = run.data.tags.get(TRIAL)
            if name is None:
                wrong = run.info.run_id != self._parent_run()
            else:
                number = int(name.rpartition("/")[2])
                wrong = number >= len(self.ledger.trials) or run.info.run_id != self._run_of(self.ledger.trials[number])
            if wrong:
                self._send(self.client.delete_run, run.info.run_id)
                deleted += 1
        for number in range(len(self.ledger.trials)):
            self.trial(number)
        return {"trials": len(self.ledger.trials), "deleted": deleted}

    # -- runs --------------------------------------------------------------------------------------------

    def _search(self, condition: str) -> list[Any]:
        runs: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id()],
                condition,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _experiment_id(self) -> str:
        if self._experiment is None:
            trainable = self.ledger.record.spec["trainable"]
            self._experiment = experiment_id(self.client, self.uri, trainable, self._send)
        return self._experiment

    def _parent_run(self) -> str:
        if self._parent is None:
            runs = self._search(f"tags.`{SWEEP}` = '{self.ledger.sweep}' and tags.`refsweep.kind` = 'sweep'")
            if runs:
                self._parent = str(runs[0].info.run_id)
            else:
                tags = {SWEEP: self.ledger.sweep, "refsweep.kind": "sweep", **_flat(self.ledger.record.spec)}
                self._parent = self._create(self.ledger.sweep, None, tags)
        return self._parent

    def _run_of(self, trial: FrozenTrial) -> str:
        """The trial's run: the ledger's, else the oldest with its tag, else a new one."""
        number = trial.number
        if number not in self._runs:
            name = f"{self.ledger.sweep}/{number}"
            run = self.ledger.record.run_ids.get(number)
            if run is None or not self._exists(run):
                runs = self._search(f"tags.`{TRIAL}` = '{name}'")
                tags = {
                    SWEEP: self.ledger.sweep,
                    TRIAL: name,
                    "refsweep.kind": "trial",
                    "mlflow.parentRunId": self._parent_run(),
                }
                run = str(runs[0].info.run_id) if runs else self._create(name, trial, tags)
                self.ledger.set_run_id(number, run)
            self._runs[number] = run
        return self._runs[number]

    def _exists(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _create(self, name: str, trial: FrozenTrial | None, tags: Mapping[str, str]) -> str:
        began = (
            int(trial.datetime_start.timestamp() * 1000) if trial and trial.datetime_start else int(time.time() * 1000)
        )
        run = self._send(
            self.client.create_run, self._experiment_id(), start_time=began, tags=dict(tags), run_name=name
        )
        self._status[str(run.info.run_id)] = str(run.info.status)
        return str(run.info.run_id)

    # -- contents ----------------------------------------------------------------------------------------

    def _history(self, number: int) -> list[dict[str, Any]]:
        newest = self.checkpoints(number).newest(verify=False)
        return newest.history if newest else []

    def _tags(self, trial: FrozenTrial) -> dict[str, str]:
        names = ("attempt", "cause", "checkpoint", "data", "retry_of", "setting")
        stored = TrialRecord.of(trial).as_attributes()
        return {STATE: trial.state.name, **{f"refsweep.{n}": _text(stored[n]) for n in names if n in stored}}

    def _log(
        self, run: str, number: int, trial: FrozenTrial, history: Sequence[Mapping[str, Any]], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        first = number not in self._sent
        params = [Param(k, _text(v)) for k, v in sorted(TrialRecord.of(trial).config.items())] if first else []
        since = self._epochs.get(number, 0)
        metrics = [
            Metric(key, float(value), int(entry["time_ms"]), int(entry["epoch"]))
            for entry in history[since:]
            for key, value in sorted(entry["metrics"].items())
        ]
        metrics += [Metric(key, value, at_ms, SPENT_STEP) for key, value, at_ms in _spent(trial)]
        run_tags = [RunTag(k, v) for k, v in tags.items()]
        for start in range(0, max(len(metrics), 1), BATCH):
            part = metrics[start : start + BATCH]
            self._send(self.client.log_batch, run, metrics=part, params=params, tags=run_tags)
            params, run_tags = [], []
        self._epochs[number] = len(history)

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


def _spent(trial: FrozenTrial) -> list[tuple[str, float, int]]:
    """An ended trial's device-seconds by account (`spent.useful_cpu_s`), at the time its last attempt ended: the same
    however often they are sent."""
    attempts = attempts_of(trial)
    if not trial.state.is_finished() or not attempts:
        return []
    kind: Kind = "gpu" if attempts[-1].gpus else "cpu"
    at_ms = int((attempts[-1].ended_s or 0.0) * 1000)
    by_account = [(f"{SPENT_PREFIX}{n}_{kind}_s", value, at_ms) for n, value in shares(trial, attempts, kind).items()]
    return [*by_account, (f"{SPENT_PREFIX}attempts", float(len(attempts)), at_ms)]


def _flat(spec: Mapping[str, Any]) -> dict[str, str]:
    """The spec as tags."""
    return {f"refsweep.spec.{k}": _text(v)[:5000] for k, v in spec.items() if v is not None}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
