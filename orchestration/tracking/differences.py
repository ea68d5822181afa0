"""How MLflow differs from the ledger that it is a projection of, and registered versions from the sweep's trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...trainables.training.checkpoints import Checkpoints
from ..ledger.ledger import Ledger
from ..ledger.records import TrialRecord
from ..spec.locations import sqlite_path
from ..spec.same_place import shown
from ..spec.schema import SweepSpec
from .client import make_client
from .content import as_text
from .projector import STATE, Projector, RefusedError
from .runs import KIND, PARENT, SWEEP_ID, TRIAL

UPLOADS = "uploads it"


def differences_in_mlflow(
    uri: str, ledger: Ledger, checkpoints: Callable[[int], Checkpoints]
) -> Iterator[tuple[str, str | None]]:
    """(what is wrong, what a repair does about it) of every run that is missing, too many, or says otherwise."""
    projector = Projector(uri, ledger, checkpoints)
    if not _is_there(uri):
        yield f"there is no MLflow at {shown(uri)}", UPLOADS
        return
    if ledger.record.id is None:
        yield "its runs carry no id: `sweep sync` gives them one", UPLOADS
        return
    try:
        runs = projector.existing()
    except Exception as error:  # noqa: BLE001  whatever keeps MLflow from answering
        yield f"{shown(uri)} can't be read: {type(error).__name__}: {error}", None
        return
    parents = [r for r in runs if r.data.tags.get(KIND) == "sweep"]
    if not parents:
        yield "the sweep's run is missing", UPLOADS
    by_trial: dict[str, list[Any]] = {}
    for run in runs:
        by_trial.setdefault(run.data.tags.get(TRIAL, ""), []).append(run)
    by_trial.pop("", None)
    for trial in ledger.trials:
        name = f"{ledger.sweep}/{trial.number}"
        own = by_trial.pop(name, [])
        if not own:
            yield f"trial {trial.number}: its run is missing", UPLOADS
            continue
        run_id = ledger.record.run_ids.get(trial.number)
        run = next((r for r in own if r.info.run_id == run_id), own[0])
        if run.info.run_id != run_id:
            yield f"trial {trial.number}: the ledger names the run {run_id}, MLflow has {run.info.run_id}", UPLOADS
        if len(own) > 1:
            yield f"trial {trial.number}: it has {len(own)} runs", "deletes all but the ledger's"
        for what in _contents(run, trial, checkpoints(trial.number), parents):
            yield f"trial {trial.number}: {what}", UPLOADS
    for name, strays in sorted(by_trial.items()):
        yield f"{len(strays)} runs of {name}, and the ledger knows no such trial", "deletes them"


def _is_there(uri: str) -> bool:
    """Whether looking makes nothing: MLflow's client makes a SQLite file that is missing."""
    path = sqlite_path(uri)
    return path is None or path.exists()


def _contents(run: Any, trial: Any, checkpoints: Checkpoints, parents: list[Any]) -> Iterator[str]:
    tags = run.data.tags
    if tags.get(STATE) != trial.state.name:
        yield f"it is {tags.get(STATE)} in MLflow, {trial.state.name} in the ledger"
    if parents and tags.get(PARENT) != parents[0].info.run_id:
        yield "its run has another parent than the sweep's run"
    for key, value in sorted(TrialRecord.of(trial).config.items()):
        if run.data.params.get(key) != as_text(value):
            yield f"{key} is {run.data.params.get(key)} in MLflow, {as_text(value)} in the ledger"
    newest, last = checkpoints.newest(verify=False), TrialRecord.of(trial).checkpoint
    if newest is None or not newest.history or last not in (None, str(newest.name).rpartition(".")[0]):
        return  # what MLflow has is newer than what is left
    for key, value in sorted(newest.history[-1]["metrics"].items()):
        there = run.data.metrics.get(key)
        if there is None or (there != float(value) and value == value):
            yield f"{key} is {there} in MLflow, {value} in the newest manifest"


def differences_in_versions(uri: str, spec: SweepSpec, ledger: Ledger) -> Iterator[str]:
    """What is wrong with the registered versions that are this sweep's."""
    record = ledger.record
    if not _is_there(uri):
        return
    try:
        listed = _versions(make_client(uri), spec.trainable)
    except Exception as error:  # noqa: BLE001  as above
        yield f"{shown(uri)} can't be read: {type(error).__name__}: {error}"
        return
    by_run = {run: number for number, run in record.run_ids.items()}
    for version in listed:
        owner, name = version.tags.get(SWEEP_ID), version.tags.get(TRIAL, "")
        if owner != record.id and not (owner is None and version.run_id in by_run):
            continue
        sweep, _, number = name.rpartition("/")
        where = f"{spec.trainable} version {version.version}"
        if sweep != spec.name or not number.isdecimal() or int(number) >= len(ledger.trials):
            yield f"{where} is of trial {name or 'unknown'}, which the ledger does not know"
            continue
        trial = ledger.trials[int(number)]
        if trial.state.name != "COMPLETE":
            yield f"{where} is of trial {name}, which is {trial.state.name} in the ledger"
        if version.run_id and by_run.get(version.run_id) != trial.number:
            yield f"{where} is of trial {name}, and names the run {version.run_id}, which is not that trial's"


def _versions(client: Any, model: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{model}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def reconciled(uri: str, ledger: Ledger, checkpoints: Callable[[int], Checkpoints]) -> list[str]:
    """Brings MLflow up to date with the ledger, whose lease must be held; what was done, in words."""
    projector = Projector(uri, ledger, checkpoints)
    try:
        counts = projector.reconcile()
        projector.sweep("stopped" if ledger.record.state.name == "RUNNING" else str(ledger.record.state))
    except RefusedError as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001  as above
        return [f"MLflow could not be brought up to date: {type(error).__name__}: {error}"]
    return [f"MLflow has {counts['trials']} trials, {counts['deleted']} stray runs were deleted"]
