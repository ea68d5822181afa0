"""Trials that fail in every way, on Ray Tune: the sweep goes on as the rules say, and the record says why."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.execution.stopping import stop_requests
from refsweep.orchestration.execution.tune import TuneBackend
from refsweep.orchestration.ledger.records import TrialRecord
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import STOP_MARK
from refsweep.orchestration.spec.folders import sweep_folder
from refsweep.orchestration.spec.read import make_spec
from refsweep.tests.help import driver_of

pytestmark = pytest.mark.usefixtures("ray_local")


def sweep(
    storage: Path, trials: int = 3, *, stop: Callable[[Driver], bool] = lambda _: False, slots: int = 1, **parts: Any
) -> Driver:
    """Runs a toy sweep on the test session's Ray; goes on with it if it has begun."""
    retry = {"max_retries": 1, "halt_after_same_error": 99, "hang_s": 60.0, **parts.pop("retry", {})}
    spec = make_spec(
        {
            "name": "faults",
            "trainable": "toy",
            "data": "none",
            "storage": str(storage),
            "tracking": "none",
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": trials, "sampler": "random", "pruner": "none", "seed": 1},
            "resources": {"max_concurrent": slots},
            "retry": retry,
            "fixed": {"epochs": 3, **parts},
        }
    )
    backend = TuneBackend(lambda: None, lambda _: None)
    driver = driver_of(spec, room=backend.room(spec, lambda: False))
    driver.forgive()
    try:
        with stop_requests(sweep_folder(spec)):
            backend.run(driver, lambda: stop(driver))
    finally:
        driver.ledger.close()
    return driver


def states(driver: Driver) -> list[str]:
    return [t.state.name for t in driver.ledger.trials]


def causes(driver: Driver) -> list[str]:
    return [TrialRecord.of(t).cause or "" for t in driver.ledger.trials]


def test_without_faults_all_trials_are_completed_with_all_their_epochs(tmp_path: Path):
    driver = sweep(tmp_path, 4)
    assert states(driver) == ["COMPLETE"] * 4
    assert [sorted(t.intermediate_values) for t in driver.ledger.trials] == [[1, 2, 3]] * 4
    assert all(t.values == [t.intermediate_values[3]] for t in driver.ledger.trials)


@pytest.mark.parametrize("where", ["error", "setup"])
def test_a_trial_that_raises_is_retried_in_place_and_then_failed_with_its_cause(where: str, tmp_path: Path):
    driver = sweep(tmp_path, 2, fail_at_epoch=2, fail_with=where)
    assert states(driver) == ["FAIL", "FAIL"]
    for trial in driver.ledger.trials:
        failures = TrialRecord.of(trial).failures
        assert [f.action for f in failures] == ["retry", "fail"]
        assert [f.attempt for f in failures] == [1, 2]
        assert "asked to fail in epoch 2" in failures[0].failure.traceback
        assert trial.user_attrs["cause"] == "RuntimeError: asked to fail in epoch 2"
        assert sorted(trial.intermediate_values) == ([1] if where == "error" else [])


def test_a_retry_goes_on_from_the_checkpoint_and_equals_a_trial_that_never_failed(tmp_path: Path):
    whole = sweep(tmp_path / "whole", 1, noise=1.0)
    failed = sweep(tmp_path / "failed", 1, noise=1.0, fail_at_epoch=3, fail_once=str(tmp_path / "mark"))
    assert states(failed) == ["COMPLETE"]
    assert failed.ledger.trials[0].user_attrs["attempt"] == 2
    assert failed.ledger.trials[0].intermediate_values == whole.ledger.trials[0].intermediate_values
    names = [str(n) for n in failed.checkpoints(0).names()]
    assert names == ["epoch-0003.2", "epoch-0002.1"]
    a, b = (d.checkpoints(0).newest() for d in (whole, failed))
    assert a is not None
    assert b is not None
    assert a.model()["weight"].equal(b.model()["weight"])


def test_out_of_memory_makes_a_region_infeasible_without_a_retry(tmp_path: Path):
    driver = sweep(tmp_path, 2, fail_at_epoch=2, fail_with="oom")
    assert states(driver) == ["PRUNED", "PRUNED"]
    for trial in driver.ledger.trials:
        assert trial.constraints == {"out_of_memory": 1.0}
        assert len(TrialRecord.of(trial).failures) == 1
        assert "infeasible: OutOfMemoryError" in trial.user_attrs["cause"]
        assert trial.values == [trial.intermediate_values[1]]


def test_a_loss_that_is_not_a_number_makes_a_region_infeasible(tmp_path: Path):
    driver = sweep(tmp_path, 2, nan_at_epoch=2)
    assert states(driver) == ["PRUNED", "PRUNED"]
    assert all(t.constraints == {"non_finite": 1.0} for t in driver.ledger.trials)
    assert all("the loss is nan in epoch 2" in c for c in causes(driver))


def test_a_trial_whose_worker_dies_goes_on_from_its_checkpoint(tmp_path: Path):
    driver = sweep(tmp_path, 2, fail_at_epoch=3, fail_with="kill", fail_once=str(tmp_path / "mark"), slots=2)
    assert states(driver) == ["COMPLETE", "COMPLETE"]
    killed = [t for t in driver.ledger.trials if TrialRecord.of(t).failures]
    assert len(killed) == 1
    assert TrialRecord.of(killed[0]).failures[0].failure.kind == "lost"
    assert TrialRecord.of(killed[0]).failures[0].action == "resume", "an attempt that got somewhere costs no retry"
    assert sorted(killed[0].intermediate_values) == [1, 2, 3]


def test_a_trial_that_kills_every_worker_at_once_does_not_run_for_ever(tmp_path: Path):
    driver = sweep(tmp_path, 1, fail_at_epoch=1, fail_with="kill")
    assert states(driver) == ["FAIL"]
    assert [f.action for f in TrialRecord.of(driver.ledger.trials[0]).failures] == ["retry", "fail"]


def test_a_trial_that_hangs_is_killed_and_taken_up_again(tmp_path: Path):
    mark = str(tmp_path / "mark")
    retry = {"hang_s": 20.0, "max_retries": 3}  # on a busy machine a start takes as long as that too
    driver = sweep(tmp_path, 2, fail_at_epoch=2, fail_with="hang", fail_once=mark, retry=retry, slots=2)
    assert states(driver) == ["COMPLETE", "COMPLETE"]
    hung = [f for t in driver.ledger.trials for f in TrialRecord.of(t).failures]
    assert {f.failure.kind for f in hung} == {"hang"}
    assert "silent for 20 s" in hung[0].failure.message


def test_the_same_error_in_trial_after_trial_halts_the_sweep_and_a_resume_goes_on(tmp_path: Path):
    mark = tmp_path / "mark"
    parts: dict[str, Any] = {"fail_at_epoch": 1, "retry": {"max_retries": 0, "halt_after_same_error": 3}}
    driver = sweep(tmp_path, 8, **parts)
    assert driver.halted is not None
    assert "3 trials in a row ended with the same error: RuntimeError: asked to fail in epoch 1" in driver.halted
    assert states(driver) == ["FAIL"] * 3
    assert not mark.exists()


def test_a_full_disk_halts_the_sweep_and_nothing_is_lost(tmp_path: Path):
    mark = str(tmp_path / "mark")
    driver = sweep(tmp_path, 3, fail_at_epoch=2, fail_with="disk", fail_once=mark)
    assert driver.halted is not None
    assert "No space left on device" in driver.halted
    assert states(driver) == ["RUNNING"]
    assert states(sweep(tmp_path, 3, fail_at_epoch=2, fail_with="disk", fail_once=mark)) == ["COMPLETE"] * 3


def test_asked_to_stop_live_trials_write_a_checkpoint_within_their_epoch_and_go_on_later(tmp_path: Path):
    parts: dict[str, Any] = {"seconds_per_epoch": 4.0, "batch": 1}

    def after_an_epoch(driver: Driver) -> bool:
        return bool(driver.ledger.trials) and bool(driver.ledger.trials[0].intermediate_values)

    began = time.monotonic()
    driver = sweep(tmp_path, 1, stop=after_an_epoch, **parts)
    assert time.monotonic() - began < 60
    assert states(driver) == ["RUNNING"]
    newest = driver.checkpoints(0).names()[0]
    assert (newest.epoch, newest.batch > 0) == (1, True)
    assert Store(str(tmp_path)).exists(f"faults/{STOP_MARK}")
    resumed = sweep(tmp_path, 1, **parts)
    assert states(resumed) == ["COMPLETE"]
    assert resumed.ledger.trials[0].user_attrs["attempt"] == 2


def test_what_an_earlier_attempt_still_says_is_not_heard(tmp_path: Path):
    driver = sweep(tmp_path, 1)
    from refsweep.orchestration.search.protocol import Report, Verdict

    driver.live[0] = 7
    entry = {"epoch": 9, "time_ms": 1, "seconds": 0.0, "metrics": {"loss": -99.0}, "setting": {}}
    assert driver.on_result(Report(number=0, attempt=6, entries=[entry])) is Verdict.END
    assert 9 not in driver.ledger.trials[0].intermediate_values


def test_no_thread_and_no_signal_handler_is_left_behind(tmp_path: Path):
    handler, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    sweep(tmp_path, 1)
    assert signal.getsignal(signal.SIGINT) is handler
    assert threading.active_count() <= threads + 2
    assert TrialState.COMPLETE.is_finished()
