"""The runs of one sweep in MLflow: found by the sweep's id, made where they are missing.

Names of sweeps repeat on a shared MLflow. So a run is ours when it carries our id; those without one, of versions that
had none, are ours when the ledger names them, and get it then. All others are somebody else's and are left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from ..ledger.ledger import Ledger
from ..spec.same_place import same_place, shown, this_host
from .client import experiment_id, make_client
from .content import flat

SWEEP, SWEEP_ID, TRIAL, KIND = "refsweep.sweep", "refsweep.sweep_id", "refsweep.trial", "refsweep.kind"
LEDGER, HOST, PARENT = "refsweep.ledger", "refsweep.host", "mlflow.parentRunId"
LEFT = "refsweep.left"  # places of the ledger before the sweep was adopted elsewhere: a JSON list


class Runs:
    """A parent run for the sweep, a child run for each trial."""

    def __init__(self, uri: str, ledger: Ledger) -> None:
        self.uri, self.ledger = uri, ledger
        self._client: Any = None
        self._experiment: str | None = None
        self._parent: str | None = None
        self._runs: dict[int, str] = {}
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

    @property
    def sweep_id(self) -> str:
        """Of the ledger's record."""
        assert self.ledger.record.id is not None, "the lease gives a sweep its id"
        return self.ledger.record.id

    def answers(self) -> bool:
        """Whether MLflow can be asked at all."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception:  # noqa: BLE001  whatever it is
            return False
        return True

    def forget(self, number: int | None = None) -> None:
        """Looks experiment, parent and runs (or a trial's run) up anew when they are next needed: somebody may have
        deleted them."""
        self._experiment = self._parent = None
        if number is None:
            self._runs.clear()
        else:
            self._runs.pop(number, None)
        self._status.clear()

    def search(self, *conditions: str) -> list[Any]:
        """Our runs that fulfil conditions, oldest first."""
        return self._search(" and ".join([f"tags.`{SWEEP_ID}` = '{self.sweep_id}'", *conditions]))

    def existing(self) -> list[Any]:
        """Our runs that are there, oldest first; nothing is written, and no experiment is made."""
        experiment = self.client.get_experiment_by_name(self.ledger.record.spec["trainable"])
        if experiment is None or experiment.lifecycle_stage == "deleted":
            return []
        self._experiment = str(experiment.experiment_id)
        return self.search()

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

    # -- the sweep's -------------------------------------------------------------------------------------

    def parent_run(self) -> str:
        """The id of the sweep's run. Raises InputError when this ledger is a copy that was left behind: MLflow's run
        names another ledger."""
        if self._parent is None:
            runs = self.search(f"tags.`{KIND}` = 'sweep'")
            run = runs[0] if runs else self._earlier_parent()
            if run is not None:
                self._claim_parent(run)
                self._parent = str(run.info.run_id)
            else:
                ours = {SWEEP: self.ledger.sweep, SWEEP_ID: self.sweep_id, KIND: "sweep", **self._place({})}
                self._parent = self._create(self.ledger.sweep, None, {**ours, **flat(self.ledger.record.spec)})
        return self._parent

    def take_over(self) -> None:
        """Lets the sweep's run name this ledger, whichever it names: the sweep has been adopted here."""
        for run in self.search(f"tags.`{KIND}` = 'sweep'")[:1]:
            self._tag(run, self._place(run.data.tags, adopted=True))

    def _place(self, known: Mapping[str, str], *, adopted: bool = False) -> dict[str, str]:
        """Where the sweep is, and which places it has left, as tags; `known` are those that its run has. The place that
        they name has been left when the sweep was `adopted`, now or while MLflow was away."""
        here = shown(self.ledger.url)
        left = [*_places(known.get(LEFT)), *self.ledger.record.moved_from]
        if known.get(LEDGER) and (adopted or self.ledger.record.moved_from):
            left.append(known[LEDGER])
        left = [p for i, p in enumerate(left) if p not in left[:i] and not same_place(p, here)]
        return {LEDGER: here, HOST: this_host(), **({LEFT: json.dumps(left)} if left or LEFT in known else {})}

    def _earlier_parent(self) -> Any:
        """The run of a sweep that had no id when its runs were made: the parent of those that the ledger names."""
        for known in self.ledger.record.run_ids.values():
            child = self._get(known)
            if child is None or child.data.tags.get(SWEEP) != self.ledger.sweep or SWEEP_ID in child.data.tags:
                continue
            parent = self._get(child.data.tags.get(PARENT, ""))
            if parent is not None and parent.data.tags.get(KIND) == "sweep" and SWEEP_ID not in parent.data.tags:
                return parent
        return None

    def _claim_parent(self, run: Any) -> None:
        tags, here = run.data.tags, shown(self.ledger.url)
        if any(same_place(place, here) for place in _places(tags.get(LEFT))):
            raise InputError(
                f"the runs of sweep {self.ledger.sweep!r} in MLflow belong to the ledger {tags.get(LEDGER)} on host "
                f"{tags.get(HOST, 'unknown')}, and {here} is a copy of it that was left behind: `refsweep sweep adopt "
                f"{self.ledger.sweep} --ledger {here}` moves the sweep back, and with --copy the copy becomes a sweep "
                "of its own"
            )
        moved = not same_place(tags.get(LEDGER, ""), here) or LEFT not in tags
        self._tag(run, {SWEEP_ID: self.sweep_id, **(self._place(tags) if moved else {})})

    # -- trials' -----------------------------------------------------------------------------------------

    def run_of(self, trial: FrozenTrial) -> str:
        """The id of a trial's run: the ledger's, else the oldest with its tags, else a new one."""
        number = trial.number
        if number not in self._runs:
            name = f"{self.ledger.sweep}/{number}"
            run = self._get(self.ledger.record.run_ids.get(number, ""))
            if run is not None and not self._is_ours(run, name):
                run = None
            if run is None:
                found = self.search(f"tags.`{TRIAL}` = '{name}'")
                run = found[0] if found else None
            wanted = {SWEEP_ID: self.sweep_id, PARENT: self.parent_run()}
            if run is None:
                ours = {SWEEP: self.ledger.sweep, TRIAL: name, KIND: "trial", **wanted}
                run_id = self._create(name, trial, ours)
            else:
                run_id = str(run.info.run_id)
                self._tag(run, wanted)
            if self.ledger.record.run_ids.get(number) != run_id:
                self.ledger.set_run_id(number, run_id)
            self._runs[number] = run_id
        return self._runs[number]

    def _is_ours(self, run: Any, name: str) -> bool:
        """Whether a run that the ledger names is: by its id, or because it has none and is this trial's by name."""
        tags = run.data.tags
        return bool(tags.get(SWEEP_ID, self.sweep_id) == self.sweep_id and tags.get(TRIAL) == name)

    def _tag(self, run: Any, wanted: Mapping[str, str]) -> None:
        for key, value in wanted.items():
            if run.data.tags.get(key) != value:
                self._send(self.client.set_tag, run.info.run_id, key, value)

    def _get(self, run_id: str) -> Any:
        """A run that is not deleted; None where there is none of that id."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, name: str, trial: FrozenTrial | None, tags: Mapping[str, str]) -> str:
        began = (
            int(trial.datetime_start.timestamp() * 1000) if trial and trial.datetime_start else int(time.time() * 1000)
        )
        run = self._send(
            self.client.create_run, self._experiment_id(), start_time=began, tags=dict(tags), run_name=name
        )
        self._status[str(run.info.run_id)] = str(run.info.status)
        return str(run.info.run_id)


def _places(text: str | None) -> list[str]:
    try:
        return [str(place) for place in json.loads(text or "[]")]
    except ValueError:  # edited by hand
        return []
