"""What a sweep may use, what it has used, and what it will: hard budgets, kept by the driver, and a forecast.

Finished, failed, repeated and running attempts count alike. Once a budget is spent no trial is asked for, and live
trials write a checkpoint and stop; `resume` with a larger budget goes on. `wall_hours` are those in which a driver
ran, over all resumes: a sweep that nobody drives uses none.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..ledger.ledger import Ledger
from ..ledger.usage import (
    DRIVERS,
    USAGE,
    Account,
    Devices,
    Kind,
    account,
    attempts_of,
    cost,
    ended,
    new_attempt,
    settled,
    with_useful,
)
from ..spec.schema import grid_size

if TYPE_CHECKING:
    from ..spec.schema import Budget as Limits

BEAT_S = 60.0  # a killed driver's time is known to so much; a write each
SPENT = "spent"  # attribute of a sweep that a budget has stopped: which one, and the figures


class Budget:
    """A driver's view of a sweep's time. Writes only what nobody could find out later."""

    def __init__(
        self, limits: Limits, ledger: Ledger, devices: Devices, slots: int, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since 1970."""
        self.limits, self.ledger, self.devices, self.slots, self.clock = limits, ledger, devices, slots, clock
        self._drivers: list[dict[str, Any]] = settled(ledger.attributes.get(DRIVERS, ()), ledger.trials)
        self._running = False
        self._beaten_s = 0.0
        self._live: dict[int, dict[str, Any]] = {}  # attempts that run
        self._left: dict[int, float] = {}  # when attempts of this driver ended whose end is not written down
        past = [a for trial in ledger.trials for a in ended(attempts_of(trial), self._drivers)]
        self._past = {kind: cost(past, kind) for kind in _KINDS}
        self._past_wall_s = account(self._drivers, ()).wall_s

    # -- the driver's own time ---------------------------------------------------------------------------

    def begin(self) -> None:
        """A driver starts trials from now on."""
        if not self._running:
            self._running = True
            mine = {"began_s": self.clock(), "seen_s": self.clock(), "slots": self.slots}
            self._drivers.append({**mine, "gpus": self.devices.gpus, "cpus": self.devices.cpus})
            self._write()

    def beat(self) -> None:
        """A sign of life, now and then."""
        if self._running and self.clock() - self._beaten_s >= BEAT_S:
            self._write()

    def end(self) -> None:
        """The driver starts no more trials."""
        if self._running:
            self._write()
            self._running = False

    def _write(self) -> None:
        self._beaten_s = self._drivers[-1]["seen_s"] = self.clock()
        self.ledger.set_attribute(DRIVERS, [dict(d) for d in self._drivers])

    # -- attempts ----------------------------------------------------------------------------------------

    def first(self) -> list[dict[str, Any]]:
        """The attempts of a trial that is about to be made."""
        return [new_attempt(self.clock(), self.devices)]

    def started(self, number: int) -> None:
        """A trial runs whose newest attempt is in the ledger."""
        self._live[number] = attempts_of(self.ledger.trials[number])[-1]

    def again(self, number: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes that a trial's next attempt begins."""
        self.ledger.note(number, USAGE, [*self._ended(number, history), *self.first()])

    def left(self, number: int) -> None:
        """A trial's attempt is over; its end is written with what comes next."""
        attempt = self._live.pop(number, None)
        if attempt is not None:
            self._left[number] = self.clock()
            self._add({**attempt, "ended_s": self._left[number]})

    def closing(self, number: int, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What a trial that ends has used, to be written with its end."""
        inherited = "retry_of" in self.ledger.trials[number].user_attrs
        return with_useful(self._ended(number, history), history, inherited=inherited)

    def _ended(self, number: int, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.left(number)
        attempts = attempts_of(self.ledger.trials[number])
        if not attempts or attempts[-1]["ended_s"] is not None:
            return attempts
        last = attempts.pop()
        end_s = self._left.pop(number, None)
        if end_s is None:  # its driver is gone: what it left in storage may be newer than what it told the ledger
            known = ended([last], self._drivers)[0]
            said = history[-1]["time_ms"] / 1000 if history else 0.0
            end_s = max(known["ended_s"], min(said, self.clock()))
            self._add({**last, "began_s": known["ended_s"], "ended_s": end_s})
        return [*attempts, {**last, "ended_s": end_s}]

    def _add(self, attempt: Mapping[str, Any]) -> None:
        for kind in _KINDS:
            self._past[kind] += cost([attempt], kind)

    # -- limits ------------------------------------------------------------------------------------------

    def used(self) -> dict[str, float]:
        """Hours so far, by the names that the spec has for their limits."""
        now_s = self.clock()
        held = {k: self._past[k] for k in _KINDS}
        for attempt in self._live.values():
            for kind in _KINDS:
                held[kind] += max(0.0, now_s - attempt["began_s"]) * attempt[f"{kind}s"]
        wall_s = self._past_wall_s + (now_s - self._drivers[-1]["began_s"] if self._running else 0.0)
        return {"gpu_hours": held["gpu"] / 3600, "cpu_hours": held["cpu"] / 3600, "wall_hours": wall_s / 3600}

    def spent(self) -> str | None:
        """Which budget is spent, with the figures; None while none is."""
        limits = _limits(self.limits.model_dump())
        if not limits:
            return None
        used = self.used()
        over = [
            f"budget.{name} is spent: {used[name]:.4g} of {limits[name]:.4g}"
            for name in limits
            if used[name] >= limits[name]
        ]
        return "; ".join(over) or None


_KINDS: tuple[Kind, Kind] = ("gpu", "cpu")


def _limits(budget: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(limit) for name, limit in budget.items() if limit is not None}


# -- what can be said of it --------------------------------------------------------------------------------


def outlook(ledger: Ledger, now_s: float | None) -> dict[str, Any]:
    """A sweep's time in plain values: hours by what they were for, limits, and a forecast. `now_s` while a driver
    runs, else None."""
    stored = ledger.attributes.get(DRIVERS, ())
    if stored and now_s is not None and now_s - stored[-1]["seen_s"] > 3 * BEAT_S:
        now_s = None  # a driver that lives, but has not begun: the last one that began is gone
    drivers = settled(stored, ledger.trials, now_s)
    known = account(drivers, ledger.trials)
    used = {"gpu_hours": known.gpu_s / 3600, "cpu_hours": known.cpu_s / 3600, "wall_hours": known.wall_s / 3600}
    limits = _limits(ledger.attributes["spec"].get("budget") or {})
    names = ("useful", "wasted", "unfinished", "waiting")
    return {
        "unit": known.kind,
        **{f"{name}_hours": getattr(known, name) / 3600 for name in names},
        **used,
        "limits": {name: {"limit": limit, "used": used[name]} for name, limit in limits.items()},
        "spent": ledger.attributes.get(SPENT),
        "forecast": forecast(ledger, drivers, known, now_s),
    }


def forecast(
    ledger: Ledger, drivers: Sequence[Mapping[str, Any]], known: Account, now_s: float | None
) -> dict[str, Any] | None:
    """What the whole sweep will cost and when it will end, from its ended trials; None before the first.

    Ways to end stay as frequent as they were; each costs its median. Running trials cost what is left of that.
    """
    kind = known.kind
    costs: dict[str, list[float]] = {}
    running: list[float] = []
    for trial in ledger.trials:
        held = cost(ended(attempts_of(trial), drivers), kind)
        if trial.state.is_finished():
            costs.setdefault(trial.state.name.lower(), []).append(held)
        else:
            running.append(held)
    if not costs or not drivers:
        return None
    count = sum(map(len, costs.values()))
    medians = {state: statistics.median(found) for state, found in sorted(costs.items())}
    each = sum(len(costs[state]) * median for state, median in medians.items()) / count
    to_come = max(0, _planned(ledger.attributes["spec"]) - ledger.searched())
    unfinished = sum(max(0.0, each - held) for held in running)
    left = to_come * each + unfinished
    total = known.useful + known.wasted + known.unfinished + left
    at_once = drivers[-1]["slots"] * drivers[-1][f"{kind}s"]
    left_s = max(left / at_once, each / drivers[-1][f"{kind}s"] if to_come else 0.0)
    unit = f"{kind.upper()} s"
    shown = " + ".join(f"{len(costs[s])} {s} x {m:.4g}" for s, m in medians.items())
    how = (
        f"({shown}) / {count} = {each:.4g} {unit} a trial, by medians; {to_come} to come x {each:.4g} "
        f"+ {unfinished:.4g} left of {len(running)} running + {total - left:.4g} held so far = {total:.4g} {unit}; "
        f"{left:.4g} / {at_once:g} {kind.upper()}s at once = {duration(left / at_once)}"
    )
    ends = datetime.fromtimestamp(now_s + left_s, UTC).isoformat(timespec="seconds") if now_s is not None else None
    return {
        "total_hours": total / 3600,
        "left_hours": left / 3600,
        "left_wall_hours": left_s / 3600,
        "ends": ends,
        "how": how,
    }


def _planned(spec: Mapping[str, Any]) -> int:
    search = spec.get("search", {})
    trials = int(search.get("trials", 0))
    return min(trials, grid_size(search["grid"])) if search.get("grid") else trials


def lines(found: Mapping[str, Any]) -> list[str]:
    """An outlook in words."""
    hours = {name: duration(found[f"{name}_hours"] * 3600) for name in ("useful", "wasted", "unfinished", "waiting")}
    said = [f"{found['unit'].upper()} time: {', '.join(f'{name} {value}' for name, value in hours.items())}"]
    said += [
        f"budget.{name}: {part['used']:.4g} of {part['limit']:.4g} ({part['used'] / part['limit']:.0%})"
        for name, part in found["limits"].items()
    ]
    coming = found["forecast"]
    if coming is not None and coming["left_hours"] > 0:
        total, left = duration(coming["total_hours"] * 3600), duration(coming["left_wall_hours"] * 3600)
        said.append(f"forecast: {total} of {found['unit'].upper()} time in all, {left} to go: {coming['how']}")
    return said


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
