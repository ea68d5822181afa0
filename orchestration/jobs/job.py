"""One job of a cluster: its record, and what its log reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...datasets.problems import InputError
from ..spec.errors import WorkFailedError
from ..spec.same_place import same_place
from .protocol import LEDGER, STORAGE, SWEEP, TOKEN, Begun, Ended, Event, event_of

_TAIL = 30  # lines of a log that are shown when a driver ended without saying why


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a sweep's driver on a cluster."""

    id: str  # <sweep>-<n>
    sweep: str
    state: str  # pending, running, stopped, succeeded or failed
    exit_code: int | None  # of the driver; negative: the signal that killed it
    message: str  # Ray's own
    ledger: str  # its URL, without a password
    storage: str = ""  # of a job of a version that did not say
    started: str | None  # ISO 8601, UTC
    ended: str | None
    token: str | None  # of its protocol lines; None: submitted by a version that had none

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.state not in ("pending", "running")

    @property
    def number(self) -> int:
        """n of `<sweep>-<n>`; 0 for an id of another form."""
        return number_of(self.id, self.sweep) or 0

    def is_at(self, ledger: str | None, storage: str | None) -> bool:
        """Whether its sweep has these places; None, here or in the job's record, is any."""
        pairs = ((self.ledger, ledger), (self.storage, storage))
        return all(not known or asked is None or same_place(known, asked) for known, asked in pairs)

    @property
    def places(self) -> str:
        """Where its sweep is, in words."""
        return f"ledger {self.ledger or 'unknown'}, storage {self.storage or 'unknown'}"

    def event_of(self, line: str) -> Event | None:
        """The event that a line of this job's log reports; None for any other line."""
        return event_of(line, self.token, self.sweep)

    def events(self, log: Iterable[str]) -> list[Event]:
        """All events of a log, oldest first."""
        return [event for line in log if (event := self.event_of(line)) is not None]

    def readable(self, log: Iterable[str]) -> Iterator[str]:
        """A log for people: the protocol's lines become plain sentences."""
        for line in log:
            event = self.event_of(line)
            if event is None:
                yield line
            elif isinstance(event, Begun):
                yield "the sweep has begun"

    def raise_failure(self, log: Sequence[str]) -> None:
        """Raises why a job that is over has failed, and returns if it has not.

        Raises InputError for exit code 2, WorkFailedError for any other failure.
        """
        if self.state == "succeeded":
            return
        end = next((e for e in reversed(self.events(log)) if isinstance(e, Ended)), None)
        why = (end.message if end else "") or "\n".join([*self.readable(log)][-_TAIL:]) or self.message
        code = end.exit_code if end else self.exit_code
        if code == 2:
            raise InputError(why)
        if code is None:
            raise WorkFailedError(f"job {self.id} {self.state}: {self.message or why}")
        if code < 0:
            raise WorkFailedError(
                f"job {self.id} was killed by signal {-code}; submit the same spec again to continue\n{why}"
            )
        raise WorkFailedError(f"job {self.id} {self.state}: {why}")

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json` and tables."""
        return {
            "job": self.id,
            "sweep": self.sweep,
            "state": self.state,
            "exit_code": self.exit_code,
            "started": self.started,
            "ended": self.ended,
        }


def number_of(job: str, sweep: str) -> int | None:
    """n of `<sweep>-<n>`; None for another sweep's job."""
    match = re.fullmatch(rf"{re.escape(sweep)}-(\d+)", job)
    return int(match[1]) if match else None


def next_id(sweep: str, ids: Iterable[str]) -> str:
    """`<sweep>-<n>`, n one more than the highest of the sweep among `ids`."""
    return f"{sweep}-{1 + max((number_of(i, sweep) or 0 for i in ids), default=0)}"


def job_from(details: Any) -> Job | None:
    """A job from Ray's `JobDetails`; None for one that runs no sweep."""
    metadata = details.metadata or {}
    if SWEEP not in metadata or not details.submission_id:
        return None
    return Job(
        id=details.submission_id,
        sweep=metadata[SWEEP],
        state=str(details.status.value).lower(),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        ledger=metadata.get(LEDGER, ""),
        storage=metadata.get(STORAGE, ""),
        started=_utc(details.start_time),
        ended=_utc(details.end_time),
        token=metadata.get(TOKEN),
    )


def _utc(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
