"""How sweeps stand, in plain values, from the ledger alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from ..search.budget import outlook
from .ledger import Ledger, UnknownSweepError, failures_of, sweeps_in


def state_of(ledger: Ledger) -> str:
    """running, stopped, finished or halted. What a killed driver left `running` is stopped."""
    state = str(ledger.attributes.get("state", "stopped"))
    return "stopped" if state == "running" and not ledger.has_driver() else state


def status(ledger: Ledger) -> dict[str, Any]:
    """A sweep in plain values."""
    best = ledger.best()
    spec = ledger.attributes["spec"]
    return {
        "name": ledger.sweep,
        "state": state_of(ledger),
        "objective": spec["objective"],
        "trials": [
            {
                "number": t.number,
                "state": t.state.name,
                "value": t.values[0] if t.values and len(t.values) == 1 else (list(t.values) if t.values else None),
                "epoch": max(ledger.reported(t.number), default=0),
                "params": dict(t.params),
                "run_id": ledger.run_id(t.number),
                "cause": t.user_attrs.get("cause") or _last_failure(failures_of(t)),
                "retry_of": t.user_attrs.get("retry_of"),
            }
            for t in ledger.trials
        ],
        "best": best.number if best else None,
        "budget": outlook(ledger, time.time() if ledger.has_driver() else None),
    }


def _last_failure(failures: Sequence[Mapping[str, Any]]) -> str | None:
    return str(failures[-1]["message"]) if failures else None


def list_sweeps(ledger_url: str) -> list[dict[str, Any]]:
    """Every sweep of a ledger, in short."""
    found = []
    for name in sweeps_in(ledger_url):
        with contextlib.suppress(UnknownSweepError):
            ledger = Ledger.open(ledger_url, name)
            best = ledger.best()
            done = sum(t.state == TrialState.COMPLETE for t in ledger.trials)
            spec = ledger.attributes["spec"]
            found.append(
                {
                    "name": name,
                    "trainable": spec["trainable"],
                    "state": state_of(ledger),
                    "trials": len(ledger.trials),
                    "complete": done,
                    "best": best.number if best else None,
                    "value": best.values[0] if best and best.values else None,
                }
            )
            ledger.close()
    return found
