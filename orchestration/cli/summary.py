"""How a sweep stands, as people read it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table
from rich.text import Text

from ..ledger.ledger import Ledger
from .output import heading, safe

PARAMETERS = 6  # columns of parameters, at most


def summary(ledger: Ledger, state: str) -> Table:
    """A sweep's trials as a table, the best one marked."""
    counts = Counter(t.state.name.lower() for t in ledger.trials)
    ends = ", ".join(f"{counts[s]} {s}" for s in ("complete", "pruned", "fail", "running") if counts[s])
    table = Table(title=heading(f"sweep {ledger.sweep}: {state} ({ends})"), title_justify="left")
    objective = ledger.record.spec["objective"]
    objectives = objective if isinstance(objective, list) else [objective]
    names = sorted({n for t in ledger.trials for n in t.params})[:PARAMETERS]
    for name in ("trial", "state", "epochs", *(o["metric"] for o in objectives), *names):
        table.add_column(Text(safe(name)), justify="left" if name == "state" else "right")
    best = ledger.best()
    for trial in ledger.trials:
        values = trial.values or [None] * len(objectives)
        mark = "*" if best is not None and best.number == trial.number else ""
        table.add_row(
            f"{mark}{trial.number}",
            trial.state.name.lower(),
            str(max(ledger.reported(trial.number), default=0)),
            *("" if v is None else f"{v:.4g}" for v in values),
            *(Text(_short(trial.params.get(n))) for n in names),
        )
    return table


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else safe(value)
