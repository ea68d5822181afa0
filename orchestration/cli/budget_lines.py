"""A sweep's device time in words, for live view, status and summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ledger.accounts import ACCOUNTS

LABELS = {"startup": "start-up"}


def budget_lines(budget: Mapping[str, Any]) -> list[str]:
    """What `budget_status` gives: accounts (unfinished only while there is some), limits, forecast."""
    unit = budget["unit"].upper()
    seconds = {name: budget[f"{name}_hours"] * 3600 for name in ACCOUNTS}
    shown = [f"{LABELS.get(name, name)} {duration(s)}" for name, s in seconds.items() if s or name != "unfinished"]
    lines = [f"{unit} time: {', '.join(shown)}"]
    lines += [
        f"budget.{name}: {part['used']:.4g} of {part['limit']:.4g} ({part['used'] / part['limit']:.0%})"
        for name, part in budget["limits"].items()
    ]
    coming = budget["forecast"]
    if coming is not None and coming["left_hours"] > 0:
        total, wall_hours = duration(coming["total_hours"] * 3600), coming["left_wall_hours"]
        left = f"{duration(wall_hours * 3600)} to go" if wall_hours is not None else "no slots now"
        lines.append(f"forecast: {total} of {unit} time in all, {left}: {coming['how']}")
    return lines


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
