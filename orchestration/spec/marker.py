"""Whose a sweep's folder is: `<storage>/<sweep>/sweep.json` names the sweep's id and where its ledger is.

Names of sweeps repeat on shared storage, ids do not. The file is written before anything else in the folder, and
whoever finds another id in it touches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from .same_place import same_place, shown, this_host

SWEEP_FILE = "sweep.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What `sweep.json` says."""

    sweep_id: str
    name: str
    ledger: str  # where its record is, without a password
    host: str  # on which it was written
    since: str  # when the id came into this folder, ISO 8601, UTC
    term: int = 0  # of the newest driver that has written it
    spec: Mapping[str, Any] = field(default_factory=dict)
    space: Sequence[Mapping[str, Any]] = ()  # its parameters and their ranges, for people
    data: str | None = None  # fingerprint of its data
    copy_of: str | None = None  # id of the sweep that this one is a copy of
    format: int = FORMAT

    def as_bytes(self) -> bytes:
        """As it is stored."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    def described(self) -> str:
        """Whose the folder is, in words."""
        return f"ledger {self.ledger} on host {self.host}, since {self.since}, id {self.sweep_id}"


def marker_of(folder: Store) -> Marker | None:
    """What a sweep's folder says; None where it says nothing. Raises InputError for a file that can't be read."""
    try:
        content = json.loads(folder.read(SWEEP_FILE))
        known = {name: content[name] for name in Marker.__slots__ if name in content}
        marker = Marker(**known)
        if not all(isinstance(value, str) for value in (marker.sweep_id, marker.name, marker.ledger)):
            raise TypeError("id, name and ledger must be text")
        return marker
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{folder.uri}/{SWEEP_FILE} says whose this folder is, and can't be read: {error}. Nothing was touched. "
            "`refsweep sweep verify NAME --repair` writes it again from the ledger"
        ) from None


def refuse_foreign(folder: Store, name: str, sweep_id: str | None, ledger_url: str) -> None:
    """Raises InputError when the folder is another sweep's of this name, or when this sweep has moved away from the
    ledger at `ledger_url`. `sweep_id` is None for a sweep that has none yet."""
    marker = marker_of(folder)
    if marker is None:
        return
    if marker.sweep_id != sweep_id:
        raise InputError(
            f"{folder.uri} belongs to another sweep {name!r}: {marker.described()}. Nothing was touched. Give this "
            f"sweep another name (--set name=...) or another storage. If it is that sweep, moved here, `refsweep sweep "
            f"adopt {name}` records it; if its ledger is lost, `refsweep sweep verify {name} --repair` makes it again"
        )
    if not same_place(marker.ledger, shown(ledger_url)):
        raise InputError(
            f"sweep {name!r} has moved to another place: {marker.described()}. What is recorded in "
            f"{shown(ledger_url)} was left behind, and nothing was touched. `refsweep sweep adopt {name} --ledger "
            f"{shown(ledger_url)} --storage {_parent(folder)}` takes it back; with --copy, and a copy of the "
            "checkpoints, it becomes a sweep of its own"
        )


def refuse_unowned(folder: Store, name: str) -> None:
    """Raises InputError when a folder without a `sweep.json` holds checkpoints: a new sweep would take them for its
    own."""
    theirs = _checkpoints_in(folder) if marker_of(folder) is None else None
    if theirs:
        raise InputError(_nobodys(folder, name, theirs))


def _nobodys(folder: Store, name: str, theirs: str) -> str:
    return (
        f"{folder.uri} holds checkpoints of another sweep {name!r} ({theirs}), whose ledger is not this one. Nothing "
        f"was touched. Give this sweep another name (--set name=...) or another storage. If that sweep's ledger is "
        f"lost, `refsweep sweep verify {name} --repair` makes it again"
    )


def _checkpoints_in(folder: Store) -> str | None:
    """A trial's folder that has something in it."""
    numbers = sorted((n for n in folder.names() if n.isdecimal()), key=int)
    return next((f"{number}/{names[0]}" for number in numbers if (names := folder.names(number))), None)


def _parent(folder: Store) -> str:
    return folder.uri.rpartition("/")[0]


def claim(folder: Store, marker: Marker) -> None:
    """Writes whose a folder is, unless it says so already. Raises InputError when somebody else was quicker."""
    before = marker_of(folder)
    if before is not None:
        if before.sweep_id != marker.sweep_id:
            refuse_foreign(folder, marker.name, marker.sweep_id, marker.ledger)
        marker = replace(marker, since=before.since, host=before.host, copy_of=before.copy_of)
    if marker != before:
        folder.write(SWEEP_FILE, marker.as_bytes())
        refuse_foreign(folder, marker.name, marker.sweep_id, marker.ledger)  # two at once: the last one stays


def new_marker(sweep_id: str, name: str, ledger_url: str, **known: Any) -> Marker:
    """Of a sweep that takes its folder now, on this machine."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Marker(sweep_id=sweep_id, name=name, ledger=shown(ledger_url), host=this_host(), since=now, **known)
