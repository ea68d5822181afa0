"""Holds what a sweep has left against each other: ledger, `sweep.json`, manifests, checkpoints, `end.json`, MLflow and
registered versions. Says every difference; repairs those that follow from the rest.

The ledger is the truth. Where it is lost, it is made again from the storage.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..trainables.training.checkpoints import Checkpoint, Checkpoints
from .identity import claim_folder, refuse_moved
from .ledger.database import UnknownSweepError
from .ledger.ledger import Ledger
from .ledger.records import TrialRecord
from .restore import restore, trial_numbers
from .search.ending import ending, ending_of, write_ending
from .spec.folders import sweep_folder
from .spec.marker import marker_of
from .spec.read import make_spec
from .spec.same_place import same_place, shown
from .spec.schema import SweepSpec
from .tracking.differences import differences_in_mlflow, differences_in_versions, reconciled


@dataclass(frozen=True, slots=True)
class Difference:
    """Two places that disagree, or something that is not there."""

    where: str  # ledger, storage, mlflow or registry
    what: str
    repair: str | None = None  # what `--repair` does about it; None: nothing follows from the rest


@dataclass(slots=True)
class Verified:
    """What was found, and what was done about it."""

    name: str
    differences: list[Difference] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [{"where": d.where, "what": d.what, "repair": d.repair} for d in self.differences]
        return {"name": self.name, "differences": rows, "repaired": self.repaired}


def verify(name: str, ledger_url: str, storage: str, *, repair: bool = False) -> Verified:
    """Compares all that a sweep has left, and with `repair` mends what follows from the rest.

    `storage` is where the sweep's folder is looked for when there is no ledger. Raises InputError when the sweep has a
    driver, when it was moved and not adopted, and when neither ledger nor storage knows it.
    """
    found, ledger = Verified(name), None
    try:
        ledger = Ledger.open(ledger_url, name)
    except UnknownSweepError as error:
        ledger = _without_ledger(found, Store(storage).child(name), ledger_url, error, repair)
    if ledger is None:
        return found
    with contextlib.closing(ledger):
        spec = make_spec(ledger.record.spec)
        refuse_moved(spec, ledger.url, None)
        ledger.refuse_if_driven()
        found.differences += _all(spec, ledger)
        if repair and found.differences:
            ledger.take_lease()
            found.repaired += _repair(spec, ledger)
            found.differences = [*_all(spec, ledger)]
    return found


def _without_ledger(found: Verified, folder: Store, url: str, error: UnknownSweepError, repair: bool) -> Ledger | None:
    """The ledger, made again from the storage; None where that is only said."""
    marker = marker_of(folder)
    if marker is None:
        raise UnknownSweepError(f"{error}; {folder.uri} holds no sweep.json either") from None
    if not same_place(marker.ledger, shown(url)):
        raise InputError(f"{folder.uri} is of another ledger: {marker.described()}; {error}")
    if not repair:
        what = f"{error}, and {folder.uri} is of the sweep with the id {marker.sweep_id}"
        found.differences.append(Difference("ledger", what, "makes it again from the storage"))
        return None
    found.repaired += [f"the ledger {shown(url)} was made again", *restore(folder, marker, url)]
    return Ledger.open(url, found.name)


def _all(spec: SweepSpec, ledger: Ledger) -> Iterator[Difference]:
    folder = sweep_folder(spec)
    yield from _marker(folder, ledger)
    for trial in ledger.trials:
        for what, mends in _trial(ledger, trial, Checkpoints(folder.child(str(trial.number)))):
            yield Difference("storage", f"trial {trial.number}: {what}", mends)
    for number in trial_numbers(folder):
        if number >= len(ledger.trials):
            yield Difference("storage", f"trial {number}: it has a folder, and the ledger knows no such trial")
    if spec.tracking_uri is not None:
        checkpoints = lambda number: Checkpoints(folder.child(str(number)))  # noqa: E731
        for what, mends in differences_in_mlflow(spec.tracking_uri, ledger, checkpoints):
            yield Difference("mlflow", what, mends)
        for what in differences_in_versions(spec.tracking_uri, spec, ledger):
            yield Difference("registry", what)


def _marker(folder: Store, ledger: Ledger) -> Iterator[Difference]:
    writes = "writes sweep.json"
    try:
        marker = marker_of(folder)
    except InputError as error:
        yield Difference("storage", str(error).partition(". Nothing")[0], writes)
        return
    record = ledger.record
    if marker is None:
        yield Difference("storage", f"{folder.uri}/sweep.json is missing", writes)
    elif marker.sweep_id != record.id:
        yield Difference("storage", f"{folder.uri} is another sweep's: {marker.described()}")
    elif not same_place(marker.ledger, shown(ledger.url)):
        yield Difference("storage", f"{folder.uri}/sweep.json names the ledger {marker.ledger}: `sweep adopt` moves it")
    elif marker.spec != record.spec or marker.data != record.data_fingerprint:
        yield Difference("storage", f"{folder.uri}/sweep.json holds another spec or data than the ledger", writes)
    elif marker.term > record.term:
        what = f"a later driver (term {marker.term}) has written sweep.json than the ledger knows (term {record.term})"
        yield Difference("ledger", what)


def _trial(ledger: Ledger, trial: FrozenTrial, checkpoints: Checkpoints) -> Iterator[tuple[str, str | None]]:
    """(what is wrong, what `--repair` does about it)."""
    record = TrialRecord.of(trial)
    whole = [c for name in checkpoints.names() if (c := checkpoints.open(name, verify=False)) is not None]
    for name in checkpoints.names():
        if checkpoints.open(name) is None:
            yield f"checkpoint {name} is damaged or was not finished", None
    if record.checkpoint is not None and not any(str(c.name).rpartition(".")[0] == record.checkpoint for c in whole):
        yield f"its last checkpoint, {record.checkpoint}, is missing", None
    for checkpoint in whole:
        for what in _manifest(ledger, trial, checkpoint):
            yield f"checkpoint {checkpoint.name}: {what}", None
    if trial.state.is_finished():
        known = ending_of(checkpoints)
        if known is None:
            yield "end.json is missing", "writes end.json"
        elif not _same_end(known, ending(ledger, trial.number, checkpoints), ledger.record.earlier_ids):
            yield "end.json says otherwise than the ledger", "writes end.json"
    elif checkpoints.store.exists("end.json"):
        yield "end.json says that it is over, the ledger says that it is not", "removes end.json"


_COMPARED = ("state", "values", "intermediate", "params", "notes", "history", "digests")


def _same_end(known: Any, wanted: Any, earlier_ids: Sequence[str]) -> bool:
    ours = known.get("sweep_id") in (wanted["sweep_id"], *earlier_ids)
    return ours and all(_equal(known.get(name), wanted[name]) for name in _COMPARED)


def _equal(a: Any, b: Any) -> bool:
    """Equal as JSON; NaN equals itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _manifest(ledger: Ledger, trial: FrozenTrial, checkpoint: Checkpoint) -> Iterator[str]:
    manifest, record = checkpoint.manifest, ledger.record
    theirs = manifest.get("sweep_id")
    if theirs not in (None, record.id, *record.earlier_ids):
        yield f"it is of the sweep with the id {theirs}"
    if manifest.get("data") not in (None, record.data_fingerprint):
        yield f"it was trained on other data ({manifest['data']}, the sweep's is {record.data_fingerprint})"
    if int(manifest.get("term", 0)) > record.term:
        yield f"a later driver (term {manifest['term']}) wrote it than the ledger knows (term {record.term})"
    if checkpoint.name.attempt > TrialRecord.of(trial).attempt:
        yield f"it is of attempt {checkpoint.name.attempt}, the ledger knows {TrialRecord.of(trial).attempt}"
    objectives = record.spec["objective"]
    metric = objectives["metric"] if isinstance(objectives, dict) else None
    for entry in checkpoint.history if metric else ():
        measured, told = entry["metrics"].get(metric), trial.intermediate_values.get(int(entry["epoch"]))
        if measured is not None and told is not None and not _equal(float(measured), float(told)):
            yield f"{metric} of epoch {entry['epoch']} is {measured:g}, in the ledger {told:g}"


def _repair(spec: SweepSpec, ledger: Ledger) -> list[str]:
    """Mends what follows from the ledger. The lease must be held."""
    done: list[str] = []
    folder = sweep_folder(spec)
    for wrong in _marker(folder, ledger):
        if wrong.repair:
            folder.delete("sweep.json")
            claim_folder(spec, ledger)
            done.append("sweep.json was written")
    for trial in ledger.trials:
        checkpoints = Checkpoints(folder.child(str(trial.number)))
        for _, mends in _trial(ledger, trial, checkpoints):
            if mends == "writes end.json":
                write_ending(ledger, trial.number, checkpoints)
                done.append(f"trial {trial.number}: end.json was written")
            elif mends is not None:
                checkpoints.store.delete("end.json")
                done.append(f"trial {trial.number}: end.json was removed")
    if spec.tracking_uri is not None:
        done += reconciled(spec.tracking_uri, ledger, lambda number: Checkpoints(folder.child(str(number))))
    return done
