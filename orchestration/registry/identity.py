"""Whose a registered version is: a trial of a sweep by the sweep's id, never by names, which repeat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from ..ledger.ledger import Ledger
from ..ledger.records import TrialRecord

SWEEP_ID, TRIAL, TERM, CHECKPOINT = "refsweep.sweep_id", "refsweep.trial", "refsweep.term", "refsweep.checkpoint_digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialIdentity:
    """A trial, as a version's tags name it."""

    sweep: str  # its name, for people
    number: int
    sweep_id: str | None  # None for a sweep that no driver has run since sweeps have ids
    term: int
    run_ids: frozenset[str]  # its MLflow runs: the one that the ledger has, and the one that it has in MLflow now
    checkpoint: str | None  # sha256 of the manifest of the checkpoint that was measured

    @classmethod
    def of(cls, ledger: Ledger, trial: FrozenTrial, run: str) -> TrialIdentity:
        """A ledger's trial, whose MLflow run is `run`."""
        record = ledger.record
        return cls(
            sweep=ledger.sweep,
            number=trial.number,
            sweep_id=record.id,
            term=record.term,
            run_ids=frozenset((run, record.run_ids.get(trial.number, run))),
            checkpoint=TrialRecord.of(trial).checkpoint_digest,
        )

    def tags(self) -> dict[str, str]:
        """Of its version."""
        known = {SWEEP_ID: self.sweep_id, CHECKPOINT: self.checkpoint}
        own = {TRIAL: f"{self.sweep}/{self.number}", TERM: str(self.term)}
        return own | {key: value for key, value in known.items() if value is not None}

    def version_in(self, versions: Iterable[Any]) -> str | None:
        """The number of its version, the lowest of several; None where it has none."""
        return min((str(v.version) for v in versions if self._is(v)), key=int, default=None)

    def _is(self, version: Any) -> bool:
        tags = version.tags
        if _number(tags) != self.number:
            return False
        if SWEEP_ID in tags:
            same_weights = self.checkpoint is None or tags.get(CHECKPOINT, self.checkpoint) == self.checkpoint
            return bool(tags[SWEEP_ID] == self.sweep_id and same_weights)
        return version.run_id in self.run_ids  # registered before sweeps had ids


def duplicates(versions: Sequence[Any]) -> list[Any]:
    """Versions of a trial that has one with a lower number: two processes have registered it at once."""
    first: dict[tuple[Any, ...], Any] = {}
    later = []
    for version in sorted(versions, key=lambda v: int(v.version)):
        tags = version.tags
        if SWEEP_ID not in tags or _number(tags) is None:
            continue
        trial = (tags[SWEEP_ID], _number(tags), tags.get(CHECKPOINT))
        if first.setdefault(trial, version) is not version:
            later.append(version)
    return later


def _number(tags: dict[str, str]) -> int | None:
    number = tags.get(TRIAL, "").rpartition("/")[2]
    return int(number) if number.isdecimal() else None
