"""What driver and trials tell each other, in plain values: it crosses processes and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .failures import Failure

STOP_MARK = "STOP"  # a file in the sweep's folder that asks trials to write a checkpoint and end


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A trial to run: all that its worker needs, in plain values."""

    sweep: str
    number: int
    attempt: int
    trainable: str
    config: Mapping[str, Any]
    data: str | None
    fingerprint: str
    storage: str  # of the sweep
    best: tuple[str, str] | None  # metric and mode whose best checkpoint is kept
    stream: str
    workers: tuple[int, int]  # at least, at most
    cpus: int  # of each worker
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a trial says after an epoch, or at its end."""

    number: int
    attempt: int
    entries: Sequence[Mapping[str, Any]] = ()  # `EpochResult`s, all that were not reported in this attempt
    final: bool = False
    stopped: bool = False  # asked to, after a checkpoint
    failure: Failure | None = None
    started: bool = False  # its workers have
    waiting: str | None = None  # what for, before that
    training_began_s: float | None = None  # when the first batch of this attempt began; seconds since 1970


def report_as_text(report: Report) -> str:
    """A report to travel, as JSON: Tune flattens results that are nested."""
    return json.dumps(asdict(report))


def report_from_text(text: str) -> Report:
    """A report that has travelled."""
    content = json.loads(text)
    failure = Failure(**content["failure"]) if content["failure"] else None
    return Report(**{**content, "failure": failure})
