"""What the driver, its backend and its trials tell each other: events in, actions out, in plain values.

A backend has free slots and trials that report. It asks the driver `next_action()` for each free slot, passes on what
trials report (`on_result`) and which attempts are gone (`on_attempt_lost`), and does what it is answered. An Assignment
and a Report cross processes and versions, so they hold plain values only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Protocol

from ..ledger.failure import Failure

STOP_MARK = "STOP"  # a file in the sweep's folder that asks trials to write a checkpoint and end
StopRequested = Callable[[], bool]  # whether somebody has asked the sweep to stop


# -- what a driver knows of the backend ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Room:
    """What a backend has room for."""

    slots: int  # trials at the same time
    gpus_per_worker: float = 0.0
    workers: int = 1  # at the same time, of all trials together
    arithmetic: str = ""  # how these follow from the nodes, in words


class Observer(Protocol):
    """Watches a driver: the MLflow tracker, the live view."""

    def attached(self, driver: Any) -> None:
        """The driver is ready to begin."""

    def trial_changed(self, number: int) -> None:
        """A trial's record has changed."""

    def ticked(self) -> None:
        """A moment has passed: several a second while the sweep runs."""


# -- actions: what a backend is to do --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A trial to start: all that its worker needs, in plain values."""

    sweep: str
    number: int
    attempt: int
    trainable: str
    config: Mapping[str, Any]
    data_uri: str | None
    data_fingerprint: str
    storage: str  # of the sweep
    sweep_id: str | None  # of the ledger's record
    term: int  # of the driver
    best: tuple[str, str] | None  # metric and mode whose best checkpoint is kept
    stream: str
    workers: tuple[int, int]  # at least, at most
    cpus: int  # of each worker
    gpus: float  # of each worker
    earlier_ids: Sequence[str] = ()  # of sweeps that this one is a copy of
    asked: Mapping[str, Any] = field(default_factory=dict)  # its parameters, for manifests: `ending.asked`


class NoTrial(Enum):
    """Why there is no trial to start."""

    WAIT = "wait"  # some trial must end first
    FINISHED = "finished"


Action = Assignment | NoTrial


class Verdict(Enum):
    """What becomes of a trial that reported."""

    GO_ON = "go on"
    END = "end"


# -- events: what happened -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a trial says after an epoch, or at its end."""

    number: int
    attempt: int
    entries: Sequence[Mapping[str, Any]] = ()  # `EpochResult`s, all that were not reported in this attempt
    final: bool = False
    stopped: bool = False  # on request, after a checkpoint
    failure: Failure | None = None
    started: bool = False  # its workers have
    waiting: str | None = None  # what for, before that
    training_began_s: float | None = None  # when the first batch of this attempt began, seconds since 1970


def report_as_text(report: Report) -> str:
    """A report to travel, as JSON: Tune flattens results that are nested."""
    return json.dumps(asdict(report))


def report_from_text(text: str) -> Report:
    """A report that has travelled."""
    content = json.loads(text)
    failure = Failure.from_json(content["failure"]) if content["failure"] else None
    return Report(**{**content, "failure": failure})
