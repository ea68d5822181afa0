"""Trials of several workers by Ray Train, on a Ray of this machine: they are what trials of one worker are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group_table
from refsweep.orchestration.execution.resources import room
from refsweep.orchestration.execution.tune import run_on_tune
from refsweep.orchestration.ledger.ledger import Ledger, failures_of
from refsweep.orchestration.search.driver import Driver, run_inline
from refsweep.orchestration.spec.schema import make_spec
from refsweep.search_spaces import toy

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
    ledger = Ledger.create(spec.ledger_url, spec.name, ["min"], spec.as_json())
    ledger.take_lease()
    slots = room(spec).slots if workers != 1 else 1
    driver = Driver(spec, ledger, toy.space, posthoc={}, data=None, fingerprint="none", slots=slots)
    driver.forgive()
    return driver


def ran(driver: Driver, stop: Callable[[], bool] = lambda: False) -> Driver:
    """After it has ended; nothing of its trials is left."""
    try:
        run_on_tune(driver, stop, lambda: None)
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
    run_inline(one)
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
    (failure,) = failures_of(trial)
    assert failure["kind"] == "error"
    assert "asked to fail in epoch 2" in failure["traceback"]
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
    run_inline(undisturbed)
    assert trial.intermediate_values == undisturbed.ledger.trials[0].intermediate_values
