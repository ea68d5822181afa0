"""Keeps a sweep's budgets: meters what trials hold while they run, and says when a limit is reached.

Finished, failed, repeated and running attempts count alike. Once a budget is spent no trial is asked for, and live
trials write a checkpoint and stop; `resume` with a larger budget goes on. `wall_hours` are those in which a driver
ran, over all resumes: a sweep that nobody drives uses none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..ledger.accounts import credited
from ..ledger.ledger import Ledger
from ..ledger.usage import (
    HEARTBEAT_S,
    KINDS,
    Attempt,
    Devices,
    DriverRun,
    attempts_of,
    cost,
    ended,
    settled,
)
from ..spec.schema import Budget


class BudgetKeeper:
    """A driver's record of a sweep's time. Writes only what nobody could find out later."""

    def __init__(
        self, limits: Budget, ledger: Ledger, devices: Devices, slots: int, clock: Callable[[], float] | None = None
    ) -> None:
        """`devices` are one slot's; `clock` gives seconds since 1970 and is never put back or forward: the system's
        clock as it is now, counted on from here."""
        self.limits, self.ledger, self.devices, self.slots = limits, ledger, devices, slots
        self._live: dict[int, Attempt] = {}  # attempts that run
        self._unwritten: dict[int, Attempt] = {}  # attempts that have ended under this driver
        self._read()
        self.clock = clock or _counted_on(self._drivers[-1].seen_s if self._drivers else 0.0)

    def _read(self) -> None:
        """What the ledger has of earlier drivers and of attempts that have ended."""
        ledger = self.ledger
        self._running, self._beaten_s = False, 0.0
        self._drivers: list[DriverRun] = settled(ledger.record.drivers, ledger.trials)
        past: list[Attempt] = []
        for trial in ledger.trials:
            attempts = attempts_of(trial)
            past += ended(attempts[:-1] if trial.number in self._live else attempts, self._drivers)
        self._past = {kind: cost(past, kind) for kind in KINDS}
        self._past_wall_s = sum(d.wall_s for d in self._drivers)

    def read_anew(self, gone: Iterable[int]) -> None:
        """Another driver was here meanwhile: its time counts, and attempts at the trials `gone` are no longer ours."""
        for number in gone:
            self._live.pop(number, None)
            self._unwritten.pop(number, None)
        self._read()
        if self._live:
            self.begin()

    # -- the driver's own time ---------------------------------------------------------------------------

    def begin(self) -> None:
        """A driver starts trials from now on."""
        if not self._running:
            self._running = True
            now_s, devices = self.clock(), self.devices
            self._drivers.append(
                DriverRun(
                    began_s=now_s,
                    seen_s=now_s,
                    slots=self.slots,
                    gpus=devices.gpus,
                    cpus=devices.cpus,
                    term=self.ledger.term,
                )
            )
            self._write()

    def set_room(self, slots: int) -> None:
        """The number of trials that fit at the same time, from now on."""
        if slots == self.slots:
            return
        self.slots = slots
        if self._running:
            newest = self._drivers[-1]
            self._drivers[-1] = replace(newest, rooms=(*(newest.rooms or ()), (self.clock(), slots)))
            self._write()

    def heartbeat(self) -> None:
        """A sign of life, written once in `HEARTBEAT_S`. May be called as often as one likes."""
        if self._running and self.clock() - self._beaten_s >= HEARTBEAT_S:
            self._write()

    def end(self) -> None:
        """The driver starts no more trials."""
        if self._running:
            self._write(is_last=True)
            self._running = False

    def _write(self, *, is_last: bool = False) -> None:
        self._beaten_s = self.clock()
        newest = replace(self._drivers[-1], seen_s=self._beaten_s, term=self.ledger.term, ended=is_last or None)
        self._drivers[-1] = newest
        self.ledger.update_sweep(drivers=self._drivers)

    # -- attempts ----------------------------------------------------------------------------------------

    def first_attempt(self) -> list[Attempt]:
        """The attempts of a trial that is about to be made."""
        return [self._new_attempt()]

    def attempt_started(self, number: int) -> None:
        """A trial runs whose newest attempt is in the ledger."""
        self._live[number] = attempts_of(self.ledger.trials[number])[-1]

    def training_began(self, number: int, at_s: float) -> None:
        """A trial has reported when the first batch of its attempt began. Written with the attempt's end."""
        attempt = self._live.get(number)
        if attempt is not None and attempt.training_began_s is None:
            self._live[number] = replace(attempt, training_began_s=at_s)

    def attempt_ended(self, number: int) -> None:
        """A trial's attempt is over. Its end is written with the trial's, or by `write_end`."""
        attempt = self._live.pop(number, None)
        if attempt is not None:
            self._unwritten[number] = replace(attempt, ended_s=self.clock())
            self._add(self._unwritten[number])

    def write_end(self, number: int, *, stopped: bool = False) -> None:
        """Writes the end of a trial's attempt now: who comes next may be another driver, which could not know it.
        `stopped`: the trial was asked to, and has written a checkpoint."""
        if number in self._unwritten:
            self._unwritten[number] = replace(self._unwritten[number], stopped=stopped)
            self.ledger.update_trial(number, usage=self._ended(number, ()))

    def next_attempt(self, number: int, history: Sequence[Mapping[str, Any]], *, stopped: bool = False) -> None:
        """Writes that a trial's next attempt begins. `stopped`: the last one has left a checkpoint within an epoch,
        as only a request to stop makes it do, and its report of that did not arrive."""
        attempts = self._ended(number, history)
        if attempts and stopped:
            attempts[-1] = replace(attempts[-1], stopped=True)
        self.ledger.update_trial(number, usage=[*attempts, self._new_attempt()])

    def final_attempts(self, number: int, history: Sequence[Mapping[str, Any]], *, complete: bool) -> list[Attempt]:
        """The attempts of a trial that ends, to be written with its end. `complete`: its history has all epochs."""
        record = self.ledger.trial_record(number)
        failed = record.failure is not None and record.failure.attempt == record.attempt
        under_us = number in self._live or number in self._unwritten
        broken = not complete and (failed or not under_us)
        inherited = record.retry_of is not None
        return credited(self._ended(number, history), history, inherited=inherited, broken=broken)

    def _new_attempt(self) -> Attempt:
        devices = self.devices
        return Attempt(began_s=self.clock(), gpus=devices.gpus, cpus=devices.cpus, stopped=False)

    def _ended(self, number: int, history: Sequence[Mapping[str, Any]]) -> list[Attempt]:
        """A trial's attempts, the last of them with its end."""
        self.attempt_ended(number)
        attempts = attempts_of(self.ledger.trials[number])
        last = self._unwritten.pop(number, None)
        if not attempts or attempts[-1].ended_s is not None:
            return attempts
        if last is None:  # its driver is gone: what it left in storage may be newer than what it told the ledger
            known = ended(attempts, self._drivers)[-1]
            assert known.ended_s is not None
            told_s = min(_told_s(history, known.ended_s), self.clock())
            last = replace(known, ended_s=max(known.ended_s, told_s))
            self._add(replace(last, began_s=known.ended_s))
        return [*attempts[:-1], last]

    def _add(self, attempt: Attempt) -> None:
        for kind in KINDS:
            self._past[kind] += attempt.cost(kind)

    # -- limits ------------------------------------------------------------------------------------------

    def used(self) -> dict[str, float]:
        """Hours so far, by the names that the spec has for their limits."""
        now_s = self.clock()
        held = dict(self._past)
        for attempt in self._live.values():
            so_far_s = max(0.0, now_s - attempt.began_s)
            for kind in KINDS:
                held[kind] += so_far_s * attempt.devices(kind)
        wall_s = self._past_wall_s + (max(0.0, now_s - self._drivers[-1].began_s) if self._running else 0.0)
        return {"gpu_hours": held["gpu"] / 3600, "cpu_hours": held["cpu"] / 3600, "wall_hours": wall_s / 3600}

    def spent(self) -> str | None:
        """Which budget is spent, with the figures; None while none is."""
        limits = {name: float(limit) for name, limit in self.limits.model_dump().items() if limit is not None}
        if not limits:
            return None
        used = self.used()
        over = [
            f"budget.{name} is spent: {used[name]:.4g} of {limits[name]:.4g}"
            for name in limits
            if used[name] >= limits[name]
        ]
        return "; ".join(over) or None


def _counted_on(least_s: float) -> Callable[[], float]:
    """Seconds since 1970 by the system's clock as it is now, counted on from there: whoever sets it neither spends a
    budget nor gives hours back. Never before `least_s`, when an earlier driver was seen by a clock that went ahead."""
    offset_s = max(time.time(), least_s) - time.monotonic()
    return lambda: time.monotonic() + offset_s


def _told_s(history: Sequence[Mapping[str, Any]], known_s: float) -> float:
    """When a trial was last seen by its own host's clock. After `known_s` it has trained no longer than the epochs
    took that have ended since: a clock that was set says otherwise."""
    since = [entry for entry in history if entry["time_ms"] / 1000 > known_s]
    return min(since[-1]["time_ms"] / 1000, known_s + sum(float(e["seconds"]) for e in since)) if since else 0.0
