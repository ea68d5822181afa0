"""The tracker uploads what has changed, tries again while MLflow is away, and never fails a sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from refsweep.orchestration.tracking.tracker import Tracker


class Projector:
    """Notes what is uploaded; `fails` times it can't."""

    def __init__(self, fails: int = 0, blocks: threading.Event | None = None) -> None:
        self.fails, self.blocks = fails, blocks
        self.uploads: list[str] = []

    def _upload(self, what: str) -> None:
        if self.blocks is not None:
            self.blocks.wait(10)
        if self.fails:
            self.fails -= 1
            raise ConnectionError("no MLflow here\nsecond line")
        self.uploads.append(what)

    def trial(self, number: int) -> None:
        self._upload(f"trial {number}")

    def sweep(self, state: str) -> None:
        self._upload(state)

    def reconcile(self) -> None:
        self._upload("all")


def tracker(projector: Any, retry_s: float = 0.01) -> Tracker:
    return Tracker(projector, retry_s=retry_s, pause_s=0.01)


def wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_changes_are_uploaded_while_the_sweep_runs_and_its_state_at_the_end():
    projector = Projector()
    made = tracker(projector)
    made.trial_changed(1)
    wait(lambda: "trial 1" in projector.uploads)
    for number in (3, 2, 3):
        made.trial_changed(number)
    assert made.finish("finished")
    assert made.problem is None
    assert projector.uploads[:2] == ["running", "trial 1"]
    assert projector.uploads[-2:] == ["all", "finished"]
    assert sorted(set(projector.uploads[2:-2])) == ["trial 2", "trial 3"]


def test_what_an_absent_mlflow_misses_is_uploaded_when_it_is_back():
    projector = Projector(fails=3)
    made = tracker(projector)
    made.trial_changed(0)
    wait(lambda: projector.uploads == ["running", "trial 0"])
    wait(lambda: made.problem is None)
    assert made.finish("stopped")


def test_an_mlflow_that_stays_away_is_a_problem_and_no_exception():
    made = tracker(Projector(fails=10**9))
    made.trial_changed(0)
    assert not made.finish("finished")
    assert made.problem == "ConnectionError: no MLflow here"


def test_an_upload_that_hangs_holds_up_the_end_of_a_sweep_for_a_limited_time():
    blocks = threading.Event()
    made = tracker(Projector(blocks=blocks))
    made.trial_changed(0)
    began = time.monotonic()
    assert not made.finish("finished", timeout_s=0.2)
    assert time.monotonic() - began < 5
    assert made.problem == "still uploading after 0.2 s"
    blocks.set()


def test_a_failure_of_the_last_upload_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    projector = Projector()

    def fail() -> None:
        raise OSError("no space")

    monkeypatch.setattr(projector, "reconcile", fail)
    made = tracker(projector)
    made.trial_changed(0)
    assert not made.finish("finished")
    assert made.problem == "OSError: no space"
    assert projector.uploads == ["running", "trial 0"]
