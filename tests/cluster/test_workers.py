"""Trials of several workers by Ray Train, on a Ray of this machine: they are what trials of one worker are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group_table
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.execution.resources import room_now
from refsweep.orchestration.execution.stopping import stop_requests
from refsweep.orchestration.execution.tune import TuneBackend
from refsweep.orchestration.ledger.records import TrialRecord
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.search.protocol import Room
from refsweep.orchestration.spec.folders import sweep_folder
from refsweep.orchestration.spec.read import make_spec
from refsweep.tests.help import driver_of as driver_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def own_ray() -> Iterator[None]:
    """Two CPUs: room for one trial of two workers."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def driver_of(folder: Path, workers: Any, fixed: dict[str, Any], **parts: Any) -> Driver:
    spec = make_spec(
        {
            "name": "two",
            "trainable": "toy",
            "data": "none",
            "storage": str(folder),
            "tracking": "none",
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": 2, "sampler": "random", "pruner": "asha", "seed": 1},
            "resources": {"workers": workers},
            "fixed": {"epochs": 4, "batch": 3, **fixed},
            **parts,
        }
    )
    driver = driver_for(spec, room=room_now(spec) if workers != 1 else Room(1))
    driver.forgive()
    return driver


def ran(driver: Driver, stop: Callable[[], bool] = lambda: False) -> Driver:
    """After it has ended; nothing of its trials is left."""
    try:
        with stop_requests(sweep_folder(driver.spec)):
            TuneBackend(lambda: None, lambda _: None).run(driver, stop)
    finally:
        driver.ledger.close()
    until = time.monotonic() + 30
    while (left := {g["state"] for g in placement_group_table().values()} - {"REMOVED"}) and time.monotonic() < until:
        time.sleep(0.5)
    assert not left, "placement groups are left"
    return driver


def values(driver: Driver) -> list[tuple[str, dict[int, float]]]:
    return [(t.state.name, t.intermediate_values) for t in driver.ledger.trials]


def test_a_sweep_of_two_workers_is_the_sweep_of_one(tmp_path: Path):
    # toy's loss is a function of the Config and the epoch: the same asks, verdicts and values
    one = driver_of(tmp_path / "one", 1, {})
    InlineBackend().run(one)
    assert {state for state, _ in values(one)} == {"COMPLETE", "PRUNED"}, "both verdicts are met"
    two = ran(driver_of(tmp_path / "two", 2, {}))
    assert values(two) == values(one)
    histories = [[e["metrics"]["train_parabola"] for e in d.checkpoints(0).newest().history] for d in (one, two)]  # type: ignore[union-attr]
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


def test_what_workers_raise_is_the_trials_failure(tmp_path: Path):
    fixed = {"fail_with": "error", "fail_at_epoch": 2}
    driver = ran(driver_of(tmp_path, 2, fixed, search={"trials": 1, "pruner": "none"}, retry={"max_retries": 0}))
    (trial,) = driver.ledger.trials
    assert trial.state.name == "FAIL"
    (failed,) = TrialRecord.of(trial).failures
    assert failed.failure.kind == "error"
    assert "asked to fail in epoch 2" in failed.failure.traceback
    assert set(trial.intermediate_values) == {1}


def test_a_trial_stopped_with_one_worker_goes_on_with_as_many_as_there_is_room_for(tmp_path: Path):
    slow = {"seconds_per_epoch": 2.0}
    first = driver_of(tmp_path, 1, slow, search={"trials": 1, "pruner": "none"})

    def after_an_epoch() -> bool:
        return bool(first.ledger.trials and first.ledger.trials[0].intermediate_values)

    ran(first, after_an_epoch)
    assert first.ledger.trials[0].state.name == "RUNNING"
    assert len(first.ledger.trials[0].intermediate_values) < 4
    again = ran(driver_of(tmp_path, [1, 2], slow, search={"trials": 1, "pruner": "none"}))
    (trial,) = again.ledger.trials
    assert trial.state.name == "COMPLETE"
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4]
    assert trial.user_attrs["attempt"] == 2
    undisturbed = driver_of(tmp_path / "undisturbed", 1, slow, search={"trials": 1, "pruner": "none"})
    InlineBackend().run(undisturbed)
    assert trial.intermediate_values == undisturbed.ledger.trials[0].intermediate_values
