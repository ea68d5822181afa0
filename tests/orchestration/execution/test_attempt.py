"""What an attempt of a trial reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refsweep.orchestration.execution import attempt, workers
from refsweep.orchestration.search.protocol import Assignment, report_as_text, report_from_text
from refsweep.tests.help import toy_driver


@pytest.mark.parametrize(
    ("config", "stop", "ends"),
    [({}, False, "entries"), ({}, True, "stopped"), ({"nan_at_epoch": 1}, False, "failure")],
)
def test_every_report_says_when_training_began(
    config: dict[str, Any], stop: bool, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = attempt.make_training

    def make_training(*args: Any) -> Any:
        training: Any = made(*args)
        training.training_began_s = 5.0
        return training

    monkeypatch.setattr(attempt, "make_training", make_training)
    assigned = toy_driver(tmp_path).next_action()
    assert isinstance(assigned, Assignment)
    assigned = replace(assigned, config={**assigned.config, **config})
    run = attempt.TrialRun(assigned, attempt.DatasetCache(), lambda: stop)
    report = report_from_text(report_as_text(run.next_report()))
    run.close()
    assert getattr(report, ends)
    assert report.training_began_s is not None


def test_a_trial_that_can_not_be_set_up_has_not_begun_to_train(tmp_path: Path):
    assigned = toy_driver(tmp_path).next_action()
    assert isinstance(assigned, Assignment)
    assigned = replace(assigned, config={**assigned.config, "fail_with": "setup", "fail_at_epoch": 1})
    report = attempt.TrialRun(assigned, attempt.DatasetCache()).next_report()
    assert report.failure is not None
    assert report.training_began_s is None


def test_a_report_of_an_earlier_version_is_read():
    text = '{"number": 1, "attempt": 2, "entries": [], "final": true, "stopped": false, "failure": null}'
    assert report_from_text(text).training_began_s is None


def test_several_workers_say_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    posted: list[str] = []
    monkeypatch.setattr("ray.get", lambda _: None)
    mailbox = SimpleNamespace(post=SimpleNamespace(remote=posted.append))
    assigned = toy_driver(tmp_path).next_action()
    assert isinstance(assigned, Assignment)
    reporter = workers.WorkerReporter(assigned, mailbox, first=True)
    reporter(started=True)
    training: Any = SimpleNamespace(training_began_s=5.0)
    reporter.training = training
    reporter(stopped=True)
    reporter.failure(ValueError("no"))
    assert [report_from_text(text).training_began_s for text in posted] == [None, 5.0, 5.0]
