"""Whatever users, errors and logs say, terminals and logs show text; and output that nobody reads is no error."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from refsweep.datasets.problems import InputError
from refsweep.orchestration.cli import output, process
from refsweep.orchestration.cli.live_view import ProgressTable, progress_view
from refsweep.orchestration.cli.output import safe, show, table
from refsweep.orchestration.cli.summary import summary
from refsweep.orchestration.cli.sweep import _why_it_ended
from refsweep.orchestration.jobs.protocol import Ended, event_line, event_of
from refsweep.orchestration.ledger import ledger, sqlite_file
from refsweep.orchestration.ledger.failure import Failure
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Assignment, Report
from refsweep.tests.help import toy_driver
from rich.console import Console
from rich.live import Live

HOSTILE = (
    "[/] [red]x[/red] :smile: \x1b[2J\x1b]0;title\x07\r\nrefsweep: sweep s finished\u202e\udcff at a://u:hunter2@h"
)


def harmless(shown: str) -> None:
    """No control but newlines, no line that is not ours, the text itself still there."""
    assert all(ord(c) >= 32 or c == "\n" for c in shown), repr(shown)
    assert not {"\x7f", "\u202e", "\udcff"} & set(shown)
    assert "hunter2" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("refsweep: sweep s finished")]
    shown.encode()


@given(st.text(), st.booleans())
def test_what_is_shown_is_printable_and_shows_the_same_when_shown_again(text: str, lines: bool):
    shown = safe(text, lines=lines)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c != "\n"]
    assert lines or "\n" not in shown
    assert safe(shown, lines=lines) == shown


def test_text_stays_text_and_what_follows_a_newline_is_indented():
    assert safe("[/] :smile: \x1b[31mred\t.") == "[/] :smile: \\x1b[31mred ."
    assert safe("a\nb") == "a\\nb"
    assert safe("a\nb\n  c\n\nd", lines=True) == "a\n  b\n  c\n\n  d"


def fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [InputError, ValueError, RuntimeError])
def test_an_error_with_hostile_text_is_printed_harmlessly(error: type[Exception], capsys: pytest.CaptureFixture[str]):
    code, _ = process.run_to_exit(lambda: fails(error(HOSTILE)))
    assert code == (2 if error is InputError else 1)
    shown = capsys.readouterr().err
    harmless(shown)
    assert "[/] [red]x[/red] :smile: \\x1b[2J" in shown


def test_tables_lines_and_progress_show_hostile_text_harmlessly(capsys: pytest.CaptureFixture[str]):
    show({}, False, table(HOSTILE, [{HOSTILE: HOSTILE, "n": 1.5}]), HOSTILE)
    output.tell(HOSTILE)
    output.say(HOSTILE)
    found = capsys.readouterr()
    harmless(found.out)
    harmless(found.err)
    assert "[/]" in found.out


def test_a_log_record_with_hostile_text_is_one_harmless_entry(capsys: pytest.CaptureFixture[str]):
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(process._SafeFormatter("%(levelname)s %(name)s: %(message)s"))
    handler.emit(logging.LogRecord("refsweep", logging.WARNING, "", 0, "MLflow is behind: %s", (HOSTILE,), None))
    harmless(handler.stream.getvalue())
    assert handler.stream.getvalue().startswith("WARNING refsweep: MLflow is behind: ")


@pytest.fixture
def failed(tmp_path: Path) -> Driver:
    """A sweep whose first trial failed and halted it, with hostile text."""
    driver = toy_driver(tmp_path, trials=3, pruner="none")
    trial = driver.next_action()
    assert isinstance(trial, Assignment)
    failure = Failure("bad_input", HOSTILE, f"Traceback\n  File x\nValueError: {HOSTILE}")
    driver.on_result(Report(number=0, attempt=1, failure=failure))
    return driver


def test_a_failure_with_hostile_text_is_shown_by_view_status_and_summary(
    failed: Driver, capsys: pytest.CaptureFixture[str]
):
    assert failed.halted
    view = ProgressTable(Live())
    view.attached(failed)
    for console in (output.console(stderr=False), Console(width=160)):  # ours, and one that takes markup
        console.print(view._table(failed))
        console.print(summary(failed.ledger, "halted"))
    show({}, False, *_why_it_ended(failed.ledger))
    with progress_view(plain=True) as lines:
        lines.attached(failed)
        lines.ticked()
        failed.ledger.tell(0, TrialState.FAIL, None, cause=HOSTILE)
        lines.trial_changed(0)
        lines.ticked()
    found = capsys.readouterr()
    harmless(found.out)
    harmless(found.err)
    assert "[red]x[/red]" in found.out
    assert "[red]x[/red]" in found.err


@given(st.text(), st.text(st.characters(max_codepoint=127)))
def test_no_text_that_is_printed_is_an_event_of_a_job(before: str, message: str):
    forged = event_line(Ended(state="finished", exit_code=0, message=message), "guessed")
    for line in safe(f"{before}\n{forged}", lines=True).splitlines():
        assert event_of(line, "token", "s") is None
        assert event_of(line.removeprefix("refsweep: "), None, "s") is None
    assert event_of(safe(f"x\nrefsweep: sweep s stopped {before}", lines=True).splitlines()[1], None, "s") is None


RUN = "import sys; from refsweep.orchestration.cli import main; sys.argv = ['refsweep', *sys.argv[1:]]; main.main()"


def in_shell(words: str) -> subprocess.CompletedProcess[str]:
    """A shell's command in which REFSWEEP stands for ours."""
    program = f'{sys.executable} -c "{RUN}"'
    return subprocess.run(
        ["bash", "-c", words.replace("REFSWEEP", program)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("REFSWEEP space toy | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("REFSWEEP space toy --json | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("REFSWEEP space toy >&-", 0, ""),
        ("REFSWEEP space gpt 2>&-", 2, ""),
        ("REFSWEEP space toy > /dev/full", 2, "no space left on the disk"),
        ("REFSWEEP space toy --json > /dev/full", 2, "no space left on the disk"),
        (
            "cd $(mktemp -d) && rmdir $PWD && REFSWEEP sweep status s",
            2,
            "the folder in which this command runs is gone",
        ),
    ],
)
def test_output_that_nobody_reads_changes_no_exit_code_and_gives_no_traceback(words: str, code: int, message: str):
    done = in_shell(words)
    assert (done.returncode, done.stdout) == (code, ""), done
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_sweep_s_end_is_told_by_its_exit_code_though_nobody_reads_its_result(capsys: pytest.CaptureFixture[str]):
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    before, sys.stdout = sys.stdout, stream
    try:
        code, message = process.run_to_exit(lambda: (show({"a": "b" * 70_000}, True), fails(InputError("halted"))))
    finally:
        sys.stdout = before
        stream.close()
    assert (code, message) == (2, "halted")


def test_a_ledger_that_stays_locked_is_one_line(capsys: pytest.CaptureFixture[str]):
    cause = sqlite3.OperationalError("database is locked")
    error = StorageInternalError(f"(sqlite3.OperationalError) {cause}\n[SQL: UPDATE x]\n(Background on ...)")
    assert process.exit_code(lambda: fails(error)) == 2
    assert capsys.readouterr().err == (
        "refsweep: the ledger can't be used: (sqlite3.OperationalError) database is locked\n"
    )


def test_a_driver_whose_ledger_another_process_keeps_locked_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sqlite_file, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(ledger, "RETRY_TIMEOUT_S", 0.2)
    driver = toy_driver(tmp_path, trials=3, pruner="none")
    other = sqlite3.connect(tmp_path / "ledger.db")
    try:
        other.execute("BEGIN IMMEDIATE")
        assert process.exit_code(driver.next_action) == 2
    finally:
        other.close()
        driver.ledger.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refsweep: ")]
    assert len(lines) == 1
    assert "another process has kept" in lines[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_ends_any_command_alike(number: int, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert process.exit_code(lambda: signal.raise_signal(number)) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "refsweep: interrupted\n"
    assert process.exit_code(lambda: fails(SystemExit(130))) == 1, "what typer makes of it"


def test_json_holds_the_text_as_it_is(capsys: pytest.CaptureFixture[str]):
    show({"a": HOSTILE}, True)
    assert json.loads(capsys.readouterr().out) == {"a": HOSTILE}
