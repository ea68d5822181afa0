"""Records where a sweep is now: after its files were moved, after a mistyped place, or as a sweep of its own.

A sweep that was moved keeps its id. The copy that was left behind finds the new place in the marker of the storage
folder, or in MLflow, and is refused at its next start. A copy that is to live on gets a new id, and with it new runs.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..trainables.training.checkpoints import Checkpoints
from .ledger.ledger import Ledger
from .ledger.records import SweepState
from .search.spaces import describe_space
from .spec.errors import LedgerUnavailableError
from .spec.folders import sweep_folder, trial_folder
from .spec.locations import sqlite_path
from .spec.marker import SWEEP_FILE, Marker, marker_of, new_marker
from .spec.read import draft_spec, make_spec, settle
from .spec.same_place import same_place, shown
from .spec.schema import SweepSpec
from .tracking.projector import Projector
from .tracking.runs import Runs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a sweep is now; None: where it was, or what follows from the others."""

    ledger: str  # where its ledger was opened
    storage: str | None = None
    tracking: str | None = None
    exact: bool = True  # False: `storage` may only say where the ledger is


def adopt(name: str, places: Places, *, copy: bool = False) -> dict[str, Any]:
    """Records a sweep's places, or makes a copy of a sweep one of its own; what is recorded then, in plain values.

    Raises InputError when storage and ledger are of different sweeps, when the sweep has a driver, or when checkpoints
    that the ledger names are not there.
    """
    ledger = Ledger.open(places.ledger, name)
    try:
        old = make_spec(ledger.record.spec)
        new = _moved(old, places)
        folder = sweep_folder(new)
        _refuse_driven(ledger, old, places)
        _refuse_other(ledger, folder, new)
        if copy:
            _refuse_original(old, new, places)
        ledger.take_lease()
        if copy:
            _make_own(ledger, folder, new)
            _make_runs(ledger, new)
        else:
            _record_move(ledger, folder, old, new)
        record = ledger.record
        return {
            "name": name,
            "id": record.id,
            "storage": new.storage,
            "ledger": shown(new.ledger_url),
            "tracking": shown(new.tracking_uri or "none"),
            "copy_of": record.earlier_ids[-1] if copy else None,
        }
    finally:
        ledger.close()


def _moved(old: SweepSpec, places: Places) -> SweepSpec:
    """The spec with its places as they are now. What lay below the storage does so still."""
    content = old.as_json()
    content["storage"] = storage = _storage(old, places)
    content["ledger"] = None if old.ledger is None else places.ledger
    if not same_place(make_spec(content).ledger_url, places.ledger):
        content["ledger"] = places.ledger
    content["tracking"] = places.tracking or _below(old.tracking, old.storage, storage)
    content["data"] = _below(old.data, old.storage, storage)
    return settle(draft_spec(content).accepted("the sweep's places"))


def _storage(old: SweepSpec, places: Places) -> str:
    if places.storage is None:
        return old.storage
    apart = old.ledger is not None and not places.exact and same_place(old.ledger, places.ledger)
    if apart and not Store(places.storage).exists(old.name):
        return old.storage
    return places.storage


def _below(place: str | None, before: str, after: str) -> str | None:
    """A file or folder below a storage that was moved, where it is now; any other place as it is."""
    if place is None or before == after or "://" in before or "://" in after:
        return place
    path = sqlite_path(place)
    start, below = ("sqlite:///", str(path)) if path else ("", place)
    moved = f"{after}{below.removeprefix(before)}"
    return f"{start}{moved}" if below.startswith(f"{before}/") and Path(moved).exists() else place


def _refuse_driven(ledger: Ledger, old: SweepSpec, places: Places) -> None:
    """Neither the record nor the one that it was copied from may have a driver."""
    ledger.refuse_if_driven()
    if same_place(old.ledger_url, places.ledger):
        return
    with contextlib.suppress(LedgerUnavailableError):  # the old place is gone
        left = Ledger.find(old.ledger_url, ledger.sweep)
        if left is not None:
            try:
                if left.record.id == ledger.record.id:
                    left.refuse_if_driven()
            finally:
                left.close()


def _refuse_other(ledger: Ledger, folder: Store, new: SweepSpec) -> None:
    """The folder must be this sweep's."""
    ours, marker = ledger.record.id, marker_of(folder)
    if marker is not None:
        if ours not in (marker.sweep_id, marker.copy_of):
            raise InputError(
                f"{folder.uri} belongs to another sweep {new.name!r} than the ledger {shown(ledger.url)}: "
                f"{marker.described()}; the ledger's id is {ours or 'none'}. Nothing was touched"
            )
        return
    known = [trial.number for trial in ledger.trials if ledger.reported(trial.number)]
    found = [number for number in known if Checkpoints(trial_folder(new, number)).names()]
    if known and not found:
        raise InputError(
            f"{folder.uri} holds no checkpoint of sweep {new.name!r}: move its folder there first, or give its place "
            "as --storage"
        )
    for number in found:
        newest = Checkpoints(trial_folder(new, number)).newest(verify=False)
        theirs = newest.manifest.get("sweep_id") if newest else None
        if theirs is not None and theirs not in (ours, *ledger.record.earlier_ids):
            raise InputError(f"{folder.uri}/{number} is of the sweep with the id {theirs}, the ledger's is {ours}")


def _refuse_original(old: SweepSpec, new: SweepSpec, places: Places) -> None:
    """A copy has places of its own."""
    same = [n for n in ("ledger", "storage") if same_place(_place(old, n), _place(new, n))]
    if same:
        raise InputError(
            f"--copy needs a copy of the sweep, and its {' and '.join(same)} would be the sweep's own "
            f"({', '.join(shown(_place(old, n)) for n in same)}): copy ledger and storage first, and name both"
        )


def _place(spec: SweepSpec, name: str) -> str:
    return spec.ledger_url if name == "ledger" else spec.storage


def _record_move(ledger: Ledger, folder: Store, old: SweepSpec, new: SweepSpec) -> None:
    before = marker_of(folder)
    earlier = [*ledger.record.moved_from, shown(old.ledger_url), *([before.ledger] if before else [])]
    moved_from = [p for i, p in enumerate(earlier) if p not in earlier[:i] and not same_place(p, shown(ledger.url))]
    ledger.update_sweep(moved_from=moved_from)
    ledger.update_sweep(spec=new.as_json())
    marker = _marker(ledger, new)
    folder.write(SWEEP_FILE, marker.as_bytes())
    if not same_place(old.storage, new.storage):
        with contextlib.suppress(OSError, InputError):  # the old place may be gone
            left = sweep_folder(old)
            theirs = marker_of(left)
            if theirs is not None and theirs.sweep_id == marker.sweep_id:
                left.write(SWEEP_FILE, marker.as_bytes())  # what was left behind is refused
    _take_over_runs(ledger, new)


def _take_over_runs(ledger: Ledger, new: SweepSpec) -> None:
    """In an MLflow that is there. One that is away learns it at the next start, from the places where the sweep was."""
    uri = new.tracking_uri
    path = sqlite_path(uri) if uri is not None else None
    if uri is None or (path is not None and not path.exists()):
        return
    try:
        Runs(uri, ledger).take_over()
    except Exception as error:  # noqa: BLE001  tracking never keeps a sweep from going on
        log.warning("MLflow is behind: %s: %s", type(error).__name__, error)


def _make_own(ledger: Ledger, folder: Store, new: SweepSpec) -> None:
    """The marker first: whatever ends this early, the same command goes on with the id that stands there."""
    record, marker = ledger.record, marker_of(folder)
    assert record.id is not None, "the lease gives a sweep its id"
    begun = marker is not None and marker.copy_of == record.id
    own = marker.sweep_id if marker is not None and begun else str(uuid.uuid4())
    folder.write(SWEEP_FILE, _marker(ledger, new, sweep_id=own, copy_of=record.id).as_bytes())
    for number in record.run_ids:
        ledger.set_run_id(number, "")  # the original's
    ledger.update_sweep(earlier_ids=[*(i for i in record.earlier_ids if i != record.id), record.id])
    ledger.update_sweep(moved_from=[])
    ledger.update_sweep(spec=new.as_json())
    ledger.update_sweep(id=own)


def _make_runs(ledger: Ledger, new: SweepSpec) -> None:
    """The copy's own. An MLflow that is away gets them at the next start, or by `sweep sync`."""
    if new.tracking_uri is None:
        return
    projector = Projector(new.tracking_uri, ledger, lambda number: Checkpoints(trial_folder(new, number)))
    state = ledger.record.state
    try:
        projector.sweep(str(SweepState.STOPPED if state is SweepState.RUNNING else state))
        projector.reconcile()
    except Exception as error:  # noqa: BLE001  as above
        log.warning("MLflow is behind: %s: %s", type(error).__name__, error)


def _marker(ledger: Ledger, spec: SweepSpec, **fields: Any) -> Marker:
    record = ledger.record
    known = {
        "term": record.term,
        "spec": spec.as_json(),
        "space": describe_space(spec.trainable),
        "data": record.data_fingerprint,
    }
    return new_marker(**{"sweep_id": record.id, "name": spec.name, "ledger_url": ledger.url, **known, **fields})


def described(adopted: dict[str, Any]) -> list[str]:
    """What was recorded, in lines for people."""
    what = f"a sweep of its own, a copy of {adopted['copy_of']}" if adopted["copy_of"] else "recorded at"
    places = [f"  {name}: {adopted[name]}" for name in ("storage", "ledger", "tracking")]
    return [f"sweep {adopted['name']}: {what} (id {adopted['id']})", *places]


__all__ = ["Places", "adopt", "described"]
