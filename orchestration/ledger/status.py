"""How sweeps stand, in plain values, from the ledger alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from .accounts import ACCOUNTS, account
from .forecast import forecast, planned_trials
from .ledger import Ledger, UnknownSweepError, failures_of, sweeps_in
from .usage import HEARTBEAT_S, SPENT, attempts_of, driver_runs, ended, settled


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
        "budget": budget_status(ledger, time.time() if ledger.has_driver() else None),
    }


def budget_status(ledger: Ledger, now_s: float | None) -> dict[str, Any]:
    """A sweep's time in plain values: hours of every account (`useful_hours` ...; device-hours of `unit`, gpu or cpu),
    what is used of each limit, and a forecast. `now_s`: seconds since 1970 while a driver runs, else None."""
    stored = driver_runs(ledger.attributes)
    if stored and now_s is not None and now_s - stored[-1].seen_s > 3 * HEARTBEAT_S:
        now_s = None  # a driver that lives, but has not begun: the last one that began is gone
    drivers = settled(stored, ledger.trials, now_s)
    usage = [(trial, ended(attempts_of(trial), drivers)) for trial in ledger.trials]
    known = account(drivers, usage)
    spec = ledger.attributes["spec"]
    used = {"gpu_hours": known.gpu_s / 3600, "cpu_hours": known.cpu_s / 3600, "wall_hours": known.wall_s / 3600}
    limits = {name: float(limit) for name, limit in (spec.get("budget") or {}).items() if limit is not None}
    to_come = max(0, planned_trials(spec) - ledger.searched())
    return {
        "unit": known.kind,
        **{f"{name}_hours": getattr(known, f"{name}_s") / 3600 for name in ACCOUNTS},
        **used,
        "limits": {name: {"limit": limit, "used": used[name]} for name, limit in limits.items()},
        "spent": ledger.attributes.get(SPENT),
        "forecast": forecast(usage, drivers, known, to_come, now_s),
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
