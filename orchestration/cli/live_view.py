"""What a person sees of a sweep: a live table, plain lines where there is no terminal, a summary."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..ledger.ledger import Ledger, failures_of
from ..ledger.status import budget_status
from ..search.driver import Driver
from .budget_lines import budget_lines, duration

ROWS = 24  # of the live table; the newest trials
_COLOUR = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class View:
    """Shows a driver's progress. `tick` may be called as often as one likes."""

    def __init__(self, driver: Driver, *, plain: bool | None = None) -> None:
        self.driver = driver
        # messages go to stderr: stdout is for results
        self._console = Console(stderr=True)
        self._live: Live | None = None
        if not (plain if plain is not None else not sys.stderr.isatty()):
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._seen: dict[int, tuple[str, int, int]] = {}  # state, epoch, failed attempts
        self._began: dict[tuple[int, int], tuple[float, int]] = {}  # attempt -> when, epochs it had
        self._drawn_s = self._counted_s = 0.0
        self._budget: list[str] = []
        self._unsettled: set[int] = set()  # trials whose end was not yet shown
        self._known = 0
        self._waited_for: str | None = None
        self._start_s = time.monotonic()
        self._done_before = sum(t.state.is_finished() for t in driver.ledger.trials)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self.tick()

    def tick(self) -> None:
        """Shows what is new."""
        for number, attempt in self.driver.live.items():
            epochs = len(self.driver.ledger.reported(number))
            self._began.setdefault((number, attempt), (time.monotonic(), epochs))
        if self._live is None:
            self._lines()
        elif time.monotonic() - self._drawn_s > 0.25:
            self._drawn_s = time.monotonic()
            self._live.update(self._table())

    def _lines(self) -> None:
        if self.driver.waits_for != self._waited_for:
            self._waited_for = self.driver.waits_for
            self._say(_waits(self.driver) or "nodes are back")
        trials = self.driver.ledger.trials
        self._unsettled.update(range(self._known, len(trials)))
        self._known = len(trials)
        for trial in [trials[number] for number in sorted(self._unsettled)]:
            if trial.state.is_finished():
                self._unsettled.discard(trial.number)
            epoch = max(self.driver.ledger.reported(trial.number), default=0)
            failed = failures_of(trial)
            before = self._seen.get(trial.number)
            self._seen[trial.number] = (trial.state.name, epoch, len(failed))
            if before == self._seen[trial.number]:
                continue
            if len(failed) > (before or ("", 0, 0))[2] and not trial.state.is_finished():
                self._say(f"trial {trial.number}", f"attempt {failed[-1]['attempt']}", failed[-1]["message"][:200])
            best = self.driver.ledger.best()
            cells = [f"trial {trial.number}", trial.state.name.lower(), f"epoch {epoch}/{self.driver.spec.epochs}"]
            cells += [f"{name} {value}" for name, value in self._values(trial)]
            if best is not None and best.values:
                cells.append(f"best {best.values[0]:.4g} (trial {best.number})")
            if "cause" in trial.user_attrs:
                cells.append(str(trial.user_attrs["cause"])[:160])
            self._say(*cells)

    def _say(self, *cells: str) -> None:
        self._console.print("  ".join(cells), highlight=False, soft_wrap=True, markup=False)

    def _values(self, trial: FrozenTrial) -> list[tuple[str, str]]:
        values = trial.values or [v for _, v in sorted(trial.intermediate_values.items())[-1:]]
        names = [o.metric for o in self.driver.spec.objectives]
        return [(n, f"{v:.4g}") for n, v in zip(names, values, strict=False)]

    def _table(self) -> Table:
        driver, ledger = self.driver, self.driver.ledger
        best = ledger.best()
        done = sum(t.state.is_finished() for t in ledger.trials)
        planned = max(driver.spec.planned_trials, len(ledger.trials))
        title = f"{driver.spec.name}: {done} of {planned} trials, {self._eta(done)}"
        said = [_waits(driver), *self._budget_lines(), driver.halted]
        caption = "\n".join(line for line in said if line)
        table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
        for name in ("trial", "state", "epoch", *(o.metric for o in driver.spec.objectives), "best", "ETA"):
            table.add_column(name, justify="left" if name == "state" else "right")
        for trial in ledger.trials[-ROWS:]:
            epoch = max(ledger.reported(trial.number), default=0)
            values = [v for _, v in self._values(trial)] or [""]
            state = trial.state.name
            if trial.state == TrialState.RUNNING and trial.number not in driver.live:
                state = "WAITING"
            table.add_row(
                str(trial.number),
                f"[{_COLOUR.get(state, 'white')}]{state.lower()}",
                f"{epoch}/{driver.spec.epochs}",
                *values,
                "*" if best is not None and best.number == trial.number else "",
                self._trial_eta(trial.number, epoch),
            )
        return table

    def _budget_lines(self) -> list[str]:
        """Counted now and then: it takes all trials."""
        if not self._budget or time.monotonic() - self._counted_s > 5:
            self._counted_s = time.monotonic()
            self._budget = budget_lines(budget_status(self.driver.ledger, self.driver.budget.clock()))
        return self._budget

    def _trial_eta(self, number: int, epoch: int) -> str:
        attempt = self.driver.live.get(number)
        began = self._began.get((number, attempt)) if attempt is not None else None
        if began is None:
            return ""
        since, had = began
        if epoch <= had:
            return "..."
        return duration((time.monotonic() - since) / (epoch - had) * (self.driver.spec.epochs - epoch))

    def _eta(self, done: int) -> str:
        new = done - self._done_before
        if not new:
            return "starting"
        left = self.driver.spec.planned_trials - done
        return f"{duration((time.monotonic() - self._start_s) / new * max(left, 0))} left"


def _waits(driver: Driver) -> str | None:
    return f"waits for nodes: {driver.waits_for}" if driver.waits_for else None


def summary(ledger: Ledger, spec: Mapping[str, Any], state: str) -> Table:
    """What a sweep came to."""
    counts = Counter(t.state.name.lower() for t in ledger.trials)
    said = ", ".join(f"{counts[s]} {s}" for s in ("complete", "pruned", "fail", "running") if counts[s])
    table = Table(title=f"sweep {ledger.sweep}: {state} ({said})", title_justify="left")
    objectives = spec["objective"] if isinstance(spec["objective"], list) else [spec["objective"]]
    names = sorted({n for t in ledger.trials for n in t.params})
    for name in ("trial", "state", "epochs", *(o["metric"] for o in objectives), *names[:6]):
        table.add_column(name, justify="left" if name == "state" else "right")
    best = ledger.best()
    for trial in ledger.trials:
        values = trial.values or [None] * len(objectives)
        mark = "*" if best is not None and best.number == trial.number else ""
        table.add_row(
            f"{mark}{trial.number}",
            trial.state.name.lower(),
            str(max(ledger.reported(trial.number), default=0)),
            *("" if v is None else f"{v:.4g}" for v in values),
            *(_short(trial.params.get(n)) for n in names[:6]),
        )
    return table


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
