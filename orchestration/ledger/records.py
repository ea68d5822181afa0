"""What the ledger stores as attributes of a sweep and of its trials, with types.

Optuna's tables hold parameters, values and states; everything else that refsweep knows is an attribute, a JSON value
under a key. The fields here are those keys, but for `data_fingerprint`, which is stored as `data`, a run id, stored as
`run:<number>`, and the objectives of an epoch of a sweep with several, stored as `values:<epoch>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

from .failure import FailedAttempt, Failure
from .usage import Attempt, DriverRun, attempts_of, driver_runs

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_KEYS = {"data_fingerprint": "data"}  # fields whose key has another name


class SweepState(StrEnum):
    """How a sweep stands."""

    RUNNING = "running"
    STOPPED = "stopped"  # on request, by a spent budget, or because its driver is gone: `resume` continues it
    HALTED = "halted"  # going on would be pointless; `resume` tries again
    FINISHED = "finished"  # all planned trials have ended

    @property
    def is_final(self) -> bool:
        """Whether no driver runs the sweep any more."""
        return self is not SweepState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """Attributes of a sweep."""

    spec: Mapping[str, Any]
    id: str | None = None  # random, made with the ledger: names repeat, ids do not; None before its first driver
    term: int = 0  # raised whenever the lease is taken: what bears a lower one was written by an earlier driver
    data_fingerprint: str | None = None  # of the data that its first driver saw
    space: Mapping[str, Sequence[str]] | None = None  # where its first driver searched, see `search.walks`
    state: SweepState = SweepState.STOPPED  # as its last driver left it
    halted: str | None = None  # why
    halted_with: Failure | None = None
    forgiven: int = -1  # failures of trials up to this number no longer count towards halting
    spent: str | None = None  # the budget that stopped it, with the figures
    drivers: Sequence[DriverRun] = ()  # when a driver ran, oldest first
    run_ids: Mapping[int, str] = field(default_factory=dict)  # MLflow run of each trial
    moved_from: Sequence[str] = ()  # places of its ledger before it was adopted at this one
    earlier_ids: Sequence[str] = ()  # of the sweeps that it is a copy of: their checkpoints are its own too

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SweepRecord:
        """From the study's attributes."""
        halted_with = attributes.get("halted_with")
        return cls(
            spec=attributes["spec"],
            id=attributes.get("id"),
            term=int(attributes.get("term", 0)),
            data_fingerprint=attributes.get("data"),
            space=attributes.get("space"),
            state=SweepState(attributes.get("state", "stopped")),
            halted=attributes.get("halted"),
            halted_with=Failure.from_json(halted_with) if halted_with else None,
            forgiven=int(attributes.get("forgiven", -1)),
            spent=attributes.get("spent"),
            moved_from=tuple(attributes.get("moved_from", ())),
            earlier_ids=tuple(attributes.get("earlier_ids", ())),
            drivers=tuple(driver_runs(attributes)),
            run_ids={int(k[4:]): str(v) for k, v in attributes.items() if k.startswith("run:") and v},
        )


class SweepChanges(TypedDict, total=False):
    """Fields of a SweepRecord that may be written one by one."""

    spec: Mapping[str, Any]
    id: str
    term: int
    data_fingerprint: str
    space: Mapping[str, Sequence[str]]
    state: SweepState
    halted: str | None
    halted_with: Failure | None
    forgiven: int
    spent: str | None
    drivers: Sequence[DriverRun]
    moved_from: Sequence[str]
    earlier_ids: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """Attributes of a trial."""

    config: Mapping[str, Any]  # its Config fields
    attempt: int = 1
    data_fingerprint: str | None = None
    retry_of: int | None = None  # the failed trial that it continues
    usage: Sequence[Attempt] = ()  # its attempts, oldest first
    failures: Sequence[FailedAttempt] = ()  # oldest first
    cause: str | None = None  # why it ended early
    checkpoint: str | None = None  # its last one when it ended: `epoch-0007`
    setting: Mapping[str, float] | None = None  # the post-hoc choice of that checkpoint
    checkpoint_name: str | None = None  # the one that its value was measured with, with its attempt: `epoch-0007.2`
    checkpoint_digest: str | None = None  # sha256 of that one's manifest

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord:
        """A stored trial's."""
        stored = trial.user_attrs
        return cls(
            config=stored["config"],
            attempt=int(stored.get("attempt", 1)),
            data_fingerprint=stored.get("data"),
            retry_of=stored.get("retry_of"),
            usage=tuple(attempts_of(trial)),
            failures=tuple(FailedAttempt.from_json(entry) for entry in stored.get("failures", ())),
            cause=stored.get("cause"),
            checkpoint=stored.get("checkpoint"),
            setting=stored.get("setting"),
            checkpoint_name=stored.get("checkpoint_name"),
            checkpoint_digest=stored.get("checkpoint_digest"),
        )

    def as_attributes(self) -> dict[str, Any]:
        """As stored; what is not known yet is left out."""
        known = {name: getattr(self, name) for name in self.__slots__}
        return attributes(known, unless=(None, ()))

    @property
    def failure(self) -> FailedAttempt | None:
        """The newest."""
        return self.failures[-1] if self.failures else None


class TrialChanges(TypedDict, total=False):
    """Fields of a TrialRecord that may be written one by one."""

    attempt: int
    usage: Sequence[Attempt]
    failures: Sequence[FailedAttempt]
    cause: str
    checkpoint: str
    setting: Mapping[str, float]
    checkpoint_name: str
    checkpoint_digest: str


def attributes(fields: Mapping[str, Any], *, unless: Sequence[Any] = ()) -> dict[str, Any]:
    """Fields of a record by the keys under which they are stored, as plain values; without those whose value is one of
    `unless`."""
    return {_KEYS.get(name, name): _plain(value) for name, value in fields.items() if value not in unless}


def _plain(value: Any) -> Any:
    if isinstance(value, Failure | FailedAttempt | Attempt | DriverRun):
        return value.as_json()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def failed_alike(trials: Sequence[FrozenTrial], forgiven: int, failure: Failure) -> int:
    """How many of the newest trials in a row, those up to number `forgiven` left out, failed where `failure` did."""
    alike = 0
    for trial in reversed(trials):
        if trial.number <= forgiven or trial.state.name in ("COMPLETE", "PRUNED"):
            break
        last = TrialRecord.of(trial).failure
        if last is None:
            continue
        if last.location_hash != failure.location_hash:
            break
        alike += 1
    return alike
