"""Whose a sweep's places are: names repeat on shared storage, databases and MLflow, and files are moved and copied.

A sweep's random id is made with its ledger and stands in a marker file of its storage folder. The record that is opened
is the record that is driven: whatever names another place, or another id, is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..datasets.problems import InputError
from .ledger.ledger import Ledger
from .search.spaces import describe_space
from .spec.folders import sweep_folder
from .spec.locations import sqlite_path
from .spec.marker import claim, marker_of, new_marker, refuse_foreign, refuse_unowned
from .spec.read import make_spec
from .spec.same_place import same_place, shown
from .spec.schema import SweepSpec

DEFAULT_LEDGER = "ledger.db"  # below the storage


def refuse_moved(spec: SweepSpec, ledger_url: str, storage: str | None) -> None:
    """Raises InputError when a record was found at another ledger than it names, or at another storage."""
    other = [
        f"  {name}: it names {shown(recorded)}, it was opened at {shown(opened)}"
        for name, recorded, opened in (
            ("ledger", spec.ledger_url, ledger_url),
            ("storage", spec.storage, storage or spec.storage),
        )
        if not same_place(recorded, opened)
    ]
    if other:
        lines = "\n".join(other)
        path, below = sqlite_path(ledger_url), storage or "STORAGE"
        places = f"--ledger {shown(ledger_url)} --storage {below}"
        if path is not None and path.name == DEFAULT_LEDGER and spec.ledger is None:
            places = f"--storage {storage or path.parent}"
        raise InputError(
            f"the record of sweep {spec.name!r} names other places than those where it was opened; nothing was "
            f"touched:\n{lines}\nIf the sweep was moved, `refsweep sweep adopt {spec.name} {places}` records "
            "where it is now; with --copy it becomes a sweep of its own"
        )


def moved_places(recorded: Mapping[str, Any], spec: SweepSpec) -> tuple[list[str], str]:
    """(places in which a spec differs from the recorded one, each as `path: old -> new`; how to go on)."""
    if not {"storage", "name"} <= recorded.keys():
        return [], ""
    old = make_spec(recorded)
    pairs = (
        ("storage", old.storage, spec.storage),
        ("ledger", old.ledger_url, spec.ledger_url),
        ("tracking", old.tracking_uri or "none", spec.tracking_uri or "none"),
    )
    moved = {name: (a, b) for name, a, b in pairs if not same_place(a, b)}
    if "storage" in moved:  # what lies below it by default moves with it
        defaults = {n for n in ("ledger", "tracking") if getattr(old, n) is None and getattr(spec, n) is None}
        moved = {name: pair for name, pair in moved.items() if name not in defaults}
    options = " ".join(f"--{name} {shown(b)}" for name, (_, b) in moved.items())
    hint = f"or, if it is the same sweep at another place: refsweep sweep adopt {spec.name} {options}"
    return [f"{name}: {shown(a)} -> {shown(b)}" for name, (a, b) in moved.items()], hint


def refuse_foreign_folder(spec: SweepSpec, ledger: Ledger | None) -> None:
    """Raises InputError when the storage folder is another sweep's, or has lost the checkpoints that the ledger names.
    `ledger` is None for a sweep that has not begun. Writes nothing."""
    folder = sweep_folder(spec)
    refuse_foreign(folder, spec.name, ledger.record.id if ledger else None, spec.ledger_url)
    if ledger is None or not ledger.trials:
        refuse_unowned(folder, spec.name)
    elif marker_of(folder) is None and not folder.names() and any(ledger.reported(t.number) for t in ledger.trials):
        raise InputError(
            f"{folder.uri} is empty or gone, and the ledger {shown(ledger.url)} names checkpoints in it. If it was "
            f"moved, `refsweep sweep adopt {spec.name} --storage STORAGE --ledger {shown(ledger.url)}` records where "
            f"it is now; if it is lost, `refsweep sweep verify {spec.name} --repair` lets the sweep begin anew there"
        )


def claim_folder(spec: SweepSpec, ledger: Ledger) -> None:
    """Writes into a sweep's folder whose it is. The lease must be held. Raises InputError when it is another's."""
    record = ledger.record
    assert record.id is not None, "the lease gives a sweep its id"
    folder = sweep_folder(spec)
    known = marker_of(folder)
    # walking a space takes up to half a second, which a sweep that continues does not wait for
    space = known.space if known is not None and known.sweep_id == record.id else describe_space(spec.trainable)
    marker = new_marker(
        record.id,
        spec.name,
        ledger.url,
        spec=spec.as_json(),
        space=space,
        data=record.data_fingerprint,
        term=record.term,
    )
    claim(folder, marker)
