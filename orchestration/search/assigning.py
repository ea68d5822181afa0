"""Makes assignments: all that a trial's worker needs to know of its sweep, in plain values."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from ..ledger.ledger import Ledger
from ..ledger.records import TrialRecord
from ..spec.schema import SweepSpec
from .ending import asked
from .protocol import Assignment, Room


def assignment(
    spec: SweepSpec, ledger: Ledger, trial: FrozenTrial, room: Room, data_uri: str | None, data_fingerprint: str
) -> Assignment:
    """The next attempt of a trial, as its record has it."""
    record, objectives = TrialRecord.of(trial), spec.objectives
    return Assignment(
        sweep=spec.name,
        number=trial.number,
        attempt=record.attempt,
        trainable=spec.trainable,
        config=record.config,
        data_uri=data_uri,
        data_fingerprint=data_fingerprint,
        storage=f"{spec.storage.rstrip('/')}/{spec.name}",
        sweep_id=ledger.record.id,
        term=ledger.record.term,
        best=(objectives[0].metric, objectives[0].mode) if len(objectives) == 1 else None,
        stream=spec.stream,
        workers=spec.resources.worker_range,
        cpus=spec.resources.cpus_per_worker,
        gpus=room.gpus_per_worker,
        earlier_ids=ledger.record.earlier_ids,
        asked=asked(trial),
    )
