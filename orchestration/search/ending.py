"""`<sweep>/<number>/end.json`: all that is known of a trial that is over, beside its checkpoints.

The driver writes it after the ledger was told, so that a ledger that is lost can be made again from the storage alone.
A trial without one is not over.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from ...trainables.training.checkpoints import MANIFEST, Checkpoint, Checkpoints
from ..ledger.ledger import Ledger

log = logging.getLogger(__name__)
END_FILE = "end.json"
FORMAT = 1


def asked(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial is, before anything is measured, in plain values: every manifest and `end.json` hold it."""
    return {
        "params": dict(trial.params),
        "distributions": {name: distribution_to_json(kind) for name, kind in trial.distributions.items()},
        "config": trial.user_attrs["config"],
        "system": dict(trial.system_attrs),  # what sampler and constraints need
        "retry_of": trial.user_attrs.get("retry_of"),
        "started": trial.datetime_start.astimezone().isoformat() if trial.datetime_start else None,
    }


def ending(ledger: Ledger, number: int, checkpoints: Checkpoints) -> dict[str, Any]:
    """What `end.json` says of a trial that is over."""
    trial, newest = ledger.trials[number], checkpoints.newest(verify=False)
    return {
        "format": FORMAT,
        "number": number,
        "sweep_id": ledger.record.id,
        "term": ledger.record.term,
        "state": trial.state.name,
        "values": trial.values,
        "ended": trial.datetime_complete.astimezone().isoformat() if trial.datetime_complete else None,
        "intermediate": {str(epoch): value for epoch, value in sorted(trial.intermediate_values.items())},
        "notes": dict(trial.user_attrs),
        **asked(trial),
        "history": newest.history if newest else [],
        "digests": _digests(newest) if newest else {},
    }


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    """sha256 of every file of a checkpoint, by path below the trial's folder."""
    known = checkpoint.manifest.get("files", {})
    files = {f"{checkpoint.name}/{file}": entry["sha256"] for file, entry in known.items()}
    manifest = f"{checkpoint.name}/{MANIFEST}"
    return {**files, manifest: hashlib.sha256(checkpoint.store.read(manifest)).hexdigest()}


def write_ending(ledger: Ledger, number: int, checkpoints: Checkpoints) -> None:
    """Writes `end.json` of a trial that is over. A disk that is full, or a storage that is away, is no reason to end a
    sweep: the ledger knows."""
    try:
        content = ending(ledger, number, checkpoints)
        checkpoints.store.write(END_FILE, json.dumps(content, indent=1, sort_keys=True).encode())
    except OSError as error:
        log.warning("%s/%s is not written: %s", checkpoints.store.uri, END_FILE, error)


def ending_of(checkpoints: Checkpoints) -> Mapping[str, Any] | None:
    """What `end.json` says; None where there is none, or none that can be read."""
    try:
        content = json.loads(checkpoints.store.read(END_FILE))
        return content if isinstance(content, dict) and content["format"] == FORMAT else None
    except (FileNotFoundError, ValueError, KeyError):
        return None
