"""What a whole sweep will cost and when it will end, from the trials that have ended."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.trial import FrozenTrial

from .accounts import Account
from .usage import Attempt, DriverRun, cost


def forecast(
    usage: Sequence[tuple[FrozenTrial, Sequence[Attempt]]],
    drivers: Sequence[DriverRun],
    known: Account,
    to_come: int,
    now_s: float | None,
) -> dict[str, Any] | None:
    """Hours that the sweep will have held (`total_hours`, `left_hours`), how long that takes (`left_wall_hours`), when
    it `ends` (ISO 8601; None unless a driver runs at `now_s`), and `how` that was worked out. None before the first
    trial has ended.

    Ways to end stay as frequent as they were; each costs its median. Running trials cost what is left of that. Trials
    `to_come` are those that are still to be asked for. Without a slot there is no end: `left_wall_hours` is None.
    """
    kind = known.kind
    costs: dict[str, list[float]] = {}
    running: list[float] = []
    for trial, attempts in usage:
        held = cost(attempts, kind)
        if trial.state.is_finished():
            costs.setdefault(trial.state.name.lower(), []).append(held)
        else:
            running.append(held)
    if not costs or not drivers:
        return None
    count = sum(map(len, costs.values()))
    medians = {state: statistics.median(held) for state, held in sorted(costs.items())}
    each = sum(len(costs[state]) * median for state, median in medians.items()) / count
    unfinished = sum(max(0.0, each - held) for held in running)
    left = to_come * each + unfinished
    total = known.held_s + left
    of_slot = drivers[-1].devices(kind)
    at_once = drivers[-1].slots_now * of_slot
    left_s = max(left / at_once, each / of_slot if to_come else 0.0) if at_once else None
    unit = f"{kind.upper()} s"
    shown = " + ".join(f"{len(costs[s])} {s} x {m:.4g}" for s, m in medians.items())
    how = (
        f"({shown}) / {count} = {each:.4g} {unit} a trial, by medians; {to_come} to come x {each:.4g} "
        f"+ {unfinished:.4g} left of {len(running)} running + {known.held_s:.4g} held so far = {total:.4g} {unit}; "
    )
    how += f"{left:.4g} / {at_once:g} {kind.upper()}s at once = {left / at_once:.4g} s" if at_once else "no slots now"
    return {
        "total_hours": total / 3600,
        "left_hours": left / 3600,
        "left_wall_hours": left_s / 3600 if left_s is not None else None,
        "ends": _iso(now_s + left_s) if now_s is not None and left_s is not None else None,
        "how": how,
    }


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def planned_trials(spec: Mapping[str, Any]) -> int:
    """How many trials a stored spec asks for: `search.trials`, or fewer when its grid has fewer cells."""
    search = spec.get("search", {})
    trials = int(search.get("trials", 0))
    return min(trials, math.prod(map(len, search["grid"].values()))) if search.get("grid") else trials
