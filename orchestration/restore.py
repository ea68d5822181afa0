"""What a sweep's storage says of its trials, as a ledger would: for a ledger that is lost.

A trial with an `end.json` is over and comes back as it ended. One without comes back RUNNING, with the parameters that
its manifests hold, and is continued from its checkpoint. One that has left nothing is failed: nobody knows what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..trainables.training.checkpoints import Checkpoints
from .ledger.rebuild import rebuild
from .ledger.records import SweepState
from .search.ending import ending_of
from .spec.marker import Marker
from .spec.read import make_spec

LOST = "lost with the ledger: it had left nothing in storage"


@dataclass(frozen=True, slots=True)
class Found:
    """A trial as its folder has it."""

    trial: FrozenTrial
    term: int  # of the driver under which it was written
    what: str  # in words


def trial_numbers(folder: Store) -> list[int]:
    """Numbers of the trials that have a folder, in order."""
    return sorted(int(name) for name in folder.names() if name.isdecimal())


def restore(folder: Store, marker: Marker, url: str) -> list[str]:
    """Makes the ledger at `url` from a sweep's folder; what became of each trial, in words.

    Raises InputError when the marker holds no spec, or a trial is of a version whose manifests hold no parameters.
    """
    if not marker.spec:
        raise InputError(f"{folder.uri}: sweep.json holds no spec, and without one there is no ledger")
    spec, numbers = make_spec(marker.spec), trial_numbers(folder)
    found = [_found(folder, number, marker) for number in range(max(numbers, default=-1) + 1)]
    attributes = {
        "id": marker.sweep_id,
        "term": max([marker.term, *(f.term for f in found)]),
        "state": str(SweepState.STOPPED),
        **({"data": marker.data} if marker.data else {}),
        **({"earlier_ids": [marker.copy_of]} if marker.copy_of else {}),
        "spec": dict(marker.spec),
    }
    rebuild(url, spec.name, [o.mode for o in spec.objectives], [f.trial for f in found], attributes)
    return [f"trial {f.trial.number}: {f.what}" for f in found]


def _found(folder: Store, number: int, marker: Marker) -> Found:
    checkpoints = Checkpoints(folder.child(str(number)))
    end = ending_of(checkpoints)
    ours = (None, marker.sweep_id, marker.copy_of)
    if end is not None and end.get("sweep_id") in ours:
        state = TrialState[end["state"]]
        trial = _trial(number, state, end, end["notes"], values=end["values"])
        trial.intermediate_values = {int(epoch): float(value) for epoch, value in end["intermediate"].items()}
        trial.datetime_complete = _local(end["ended"]) or datetime.now()
        return Found(trial, int(end["term"]), f"{state.name}, from end.json")
    newest = checkpoints.newest(verify=False)
    if newest is None:
        notes = {"config": {}, "attempt": 1, "cause": LOST}
        trial = _trial(number, TrialState.FAIL, {}, notes)
        trial.datetime_complete = trial.datetime_start
        return Found(trial, 0, f"FAIL, {LOST}")
    manifest = newest.manifest
    asked = manifest.get("asked")
    if not asked or manifest.get("sweep_id") not in ours:
        why = "holds no parameters" if not asked else f"is of the sweep with the id {manifest['sweep_id']}"
        raise InputError(f"{folder.uri}/{number}/{newest.name}/manifest.json {why}: this trial can't be made again")
    attempt = max(name.attempt for name in checkpoints.names())
    notes = {"config": asked["config"], "attempt": max(attempt, 1), "data": manifest.get("data")}
    origin = str(manifest.get("trial", "")).rpartition("/")[2]  # a retry starts with a copy of the failed trial's
    retry_of = int(origin) if origin.isdecimal() and int(origin) != number else asked.get("retry_of")
    if retry_of is not None:
        notes["retry_of"] = retry_of
    trial = _trial(number, TrialState.RUNNING, asked, notes)
    return Found(trial, int(manifest.get("term", 0)), f"RUNNING, continues from {newest.name}")


def _trial(
    number: int,
    state: TrialState,
    asked: Mapping[str, Any],
    notes: Mapping[str, Any],
    values: Sequence[float] | None = None,
) -> FrozenTrial:
    kinds: dict[str, BaseDistribution] = {
        name: json_to_distribution(text) for name, text in asked.get("distributions", {}).items()
    }
    trial = optuna.create_trial(
        state=TrialState.RUNNING,
        params=dict(asked.get("params", {})),
        distributions=kinds,
        user_attrs=dict(notes),
        system_attrs=dict(asked.get("system", {})),
    )
    trial.number, trial.state, trial.values = number, state, list(values) if values else None
    trial.datetime_start = _local(asked.get("started")) or datetime.now()
    trial.datetime_complete = None
    return trial


def _local(text: str | None) -> datetime | None:
    """A time as Optuna's trials have it: of this machine's clock, without an offset."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None) if text else None
