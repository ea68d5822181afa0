"""What a person sees of a sweep."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from optuna.trial import TrialState
from refsweep.orchestration.cli.budget_lines import duration
from refsweep.orchestration.cli.live_view import ProgressTable, progress_view
from refsweep.orchestration.cli.summary import summary
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Assignment, Report
from refsweep.tests.help import toy_driver
from rich.console import Console
from rich.live import Live
from rich.table import Table


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """Of a sweep with a completed trial, one after its second epoch and one to come."""
    made = toy_driver(tmp_path, trials=3, pruner="none")
    say(made, [5.0, 4.0, 3.0, 2.5], final=True)
    say(made, [7.0, 6.5])
    return made


def say(driver: Driver, losses: list[float], *, final: bool = False) -> None:
    trial = driver.next_action()
    assert isinstance(trial, Assignment)
    rows = [
        {"epoch": i, "time_ms": i, "seconds": 1.0, "metrics": {"loss": v}, "setting": {}}
        for i, v in enumerate(losses, 1)
    ]
    driver.on_result(Report(number=trial.number, attempt=1, entries=rows, final=final))


def text(table: Table) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_live_table_shows_state_epoch_value_best_and_time_left(driver: Driver):
    view = ProgressTable(Live())
    view.attached(driver)
    view._done_before = 0  # all of it while the view looked on
    shown = text(view._table(driver))
    assert "s: 1 of 3 trials" in shown
    first, second = (line.split("│")[1:-1] for line in shown.splitlines() if "/4" in line)
    assert [c.strip() for c in first] == ["0", "complete", "4/4", "2.5", "*", ""]
    assert [c.strip() for c in second][:5] == ["1", "running", "2/4", "6.5", ""]


def test_plain_lines_say_every_change_once(driver: Driver, capsys: pytest.CaptureFixture[str]):
    with progress_view(plain=True) as view:
        view.attached(driver)
        view.ticked()
        view.ticked()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("trial 0  complete  epoch 4/4  loss 2.5  best 2.5 (trial 0)")
    assert lines[1].startswith("trial 1  running  epoch 2/4  loss 6.5")


def test_a_summary_marks_the_best_and_says_how_trials_ended(driver: Driver):
    driver.ledger.tell(1, TrialState.PRUNED, [6.5])
    shown = text(summary(driver.ledger, "finished"))
    assert "sweep s: finished (1 complete, 1 pruned)" in shown
    assert "*0" in shown


@pytest.mark.parametrize(("seconds", "text"), [(44.6, "45 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, text: str):
    assert duration(seconds) == text
