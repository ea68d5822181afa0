"""What a person sees of a running sweep: a live table, or a line for each event where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..ledger.records import TrialRecord
from ..ledger.status import budget_status
from ..search.driver import Driver, Observer
from .budget_lines import budget_lines, duration
from .output import console, heading, safe

ROWS = 24  # of the live table; the newest trials
DRAW_POLL_S, BUDGET_POLL_S = 0.25, 5.0
_COLOUR = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


@contextlib.contextmanager
def progress_view(*, plain: bool | None = None) -> Iterator[Observer]:
    """An observer that shows a sweep's progress on stderr: stdout is for results. `plain` is for lines; None for lines
    where stderr is no terminal."""
    if plain if plain is not None else not sys.stderr.isatty():
        view = EventLines(console(stderr=True))
        yield view
        view.ticked()
        return
    with Live(console=console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield ProgressTable(live)


def _values(driver: Driver, trial: FrozenTrial) -> list[tuple[str, str]]:
    """Objectives and their values so far, in words."""
    values = trial.values or [v for _, v in sorted(trial.intermediate_values.items())[-1:]]
    names = [o.metric for o in driver.spec.objectives]
    return [(n, f"{v:.4g}") for n, v in zip(names, values, strict=False)]


def _waiting_for(driver: Driver) -> str | None:
    return None if driver.room.slots else f"waiting for nodes: {driver.room.arithmetic}"


class EventLines:
    """A line for each epoch, failed attempt and end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._driver: Driver | None = None
        self._shown: dict[int, tuple[str, int, int]] = {}  # state, epoch, failed attempts
        self._unsettled: set[int] = set()  # trials whose end was not yet shown
        self._known = 0
        self._waited_for: str | None = None

    def attached(self, driver: Driver) -> None:
        """Shows what was known before as it changes."""
        self._driver = driver

    def trial_changed(self, number: int) -> None:
        """Shown at the next tick."""
        self._unsettled.add(number)

    def ticked(self) -> None:
        """Shows what is new."""
        driver = self._driver
        if driver is None:
            return
        waiting = _waiting_for(driver)
        if waiting != self._waited_for:
            self._waited_for = waiting
            self._print(waiting or "nodes are back")
        trials = driver.ledger.trials
        self._unsettled.update(range(self._known, len(trials)))
        self._known = len(trials)
        for trial in [trials[number] for number in sorted(self._unsettled)]:
            if trial.state.is_finished():
                self._unsettled.discard(trial.number)
            self._show(driver, trial)

    def _show(self, driver: Driver, trial: FrozenTrial) -> None:
        epoch = max(driver.ledger.reported(trial.number), default=0)
        record = TrialRecord.of(trial)
        before = self._shown.get(trial.number)
        self._shown[trial.number] = (trial.state.name, epoch, len(record.failures))
        if before == self._shown[trial.number]:
            return
        if len(record.failures) > (before or ("", 0, 0))[2] and not trial.state.is_finished():
            last = record.failures[-1]
            self._print(f"trial {trial.number}", f"attempt {last.attempt}", last.failure.message[:200])
        best = driver.ledger.best()
        cells = [f"trial {trial.number}", trial.state.name.lower(), f"epoch {epoch}/{driver.epochs}"]
        cells += [f"{name} {value}" for name, value in _values(driver, trial)]
        if best is not None and best.values:
            cells.append(f"best {best.values[0]:.4g} (trial {best.number})")
        if record.cause is not None:
            cells.append(record.cause[:160])
        self._print(*cells)

    def _print(self, *cells: str) -> None:
        self._console.print(safe("  ".join(cells)), soft_wrap=True)


class ProgressTable:
    """A table of the newest trials, drawn again and again."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._driver: Driver | None = None
        self._began: dict[tuple[int, int], tuple[float, int]] = {}  # attempt -> when, epochs it had
        self._drawn_s = self._counted_s = 0.0
        self._budget: list[str] = []
        self._start_s = time.monotonic()
        self._done_before = 0

    def attached(self, driver: Driver) -> None:
        """Forecasts count from here."""
        self._driver = driver
        self._start_s = time.monotonic()
        self._done_before = sum(t.state.is_finished() for t in driver.ledger.trials)

    def trial_changed(self, number: int) -> None:
        """Drawn at the next tick."""

    def ticked(self) -> None:
        """Draws what is new."""
        driver = self._driver
        if driver is None:
            return
        for number, attempt in driver.live.items():
            epochs = len(driver.ledger.reported(number))
            self._began.setdefault((number, attempt), (time.monotonic(), epochs))
        if time.monotonic() - self._drawn_s > DRAW_POLL_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._table(driver))

    def _table(self, driver: Driver) -> Table:
        ledger = driver.ledger
        best = ledger.best()
        done = sum(t.state.is_finished() for t in ledger.trials)
        planned = max(driver.spec.planned_trials, len(ledger.trials))
        title = f"{driver.spec.name}: {done} of {planned} trials, {self._eta(driver, done)}"
        below = [_waiting_for(driver), *self._budget_lines(driver), driver.halted]
        caption = Text("\n".join(safe(line) for line in below if line), style="table.caption")
        table = Table(title=heading(title), title_justify="left", caption=caption, caption_justify="left")
        for name in ("trial", "state", "epoch", *(o.metric for o in driver.spec.objectives), "best", "ETA"):
            table.add_column(Text(safe(name)), justify="left" if name == "state" else "right")
        for trial in ledger.trials[-ROWS:]:
            epoch = max(ledger.reported(trial.number), default=0)
            values = [v for _, v in _values(driver, trial)] or [""]
            state = trial.state.name
            if trial.state == TrialState.RUNNING and trial.number not in driver.live:
                state = "WAITING"
            table.add_row(
                str(trial.number),
                Text(state.lower(), style=_COLOUR.get(state, "white")),
                f"{epoch}/{driver.epochs}",
                *values,
                "*" if best is not None and best.number == trial.number else "",
                self._trial_eta(driver, trial.number, epoch),
            )
        return table

    def _budget_lines(self, driver: Driver) -> list[str]:
        """Counted now and then: it takes all trials."""
        if not self._budget or time.monotonic() - self._counted_s > BUDGET_POLL_S:
            self._counted_s = time.monotonic()
            self._budget = budget_lines(budget_status(driver.ledger, driver.budget.clock()))
        return self._budget

    def _trial_eta(self, driver: Driver, number: int, epoch: int) -> str:
        attempt = driver.live.get(number)
        began = self._began.get((number, attempt)) if attempt is not None else None
        if began is None:
            return ""
        since, had = began
        if epoch <= had:
            return "..."
        return duration((time.monotonic() - since) / (epoch - had) * (driver.epochs - epoch))

    def _eta(self, driver: Driver, done: int) -> str:
        new = done - self._done_before
        if not new:
            return "starting"
        left = driver.spec.planned_trials - done
        return f"{duration((time.monotonic() - self._start_s) / new * max(left, 0))} left"
