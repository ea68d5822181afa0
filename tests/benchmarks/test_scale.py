"""The simulator that measures the driver keeps the driver's promises itself."""

from __future__ import annotations

import pytest
from refsweep.benchmarks.scale import EPOCHS, Simulated, figures, simulate, spec_of
from refsweep.benchmarks.simulator import EPOCH_S, Curves
from refsweep.orchestration.ledger.status import budget_status

SLOTS, TRIALS = 16, 60


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """Sixty trials on sixteen slots, with random parameters: TPE's time is not what is tested."""
    folder = tmp_path_factory.mktemp("scale")
    return simulate(spec_of(str(folder), TRIALS, sampler="random"), SLOTS, mlflow=False)


def test_every_trial_is_run_once_and_none_is_left_running(simulated: Simulated):
    trials = simulated.driver.ledger.trials
    assert sorted(simulated.backend.finished) == [t.number for t in trials] == list(range(TRIALS))
    assert {t.state.name for t in trials} == {"COMPLETE", "PRUNED"}
    assert all(max(t.intermediate_values) == EPOCHS for t in trials if t.state.name == "COMPLETE")


def test_results_are_the_curves(simulated: Simulated):
    curves = Curves(simulated.driver.spec.search.seed)
    for trial in simulated.driver.ledger.trials:
        _, values = curves.of(trial.number, EPOCHS)
        assert trial.intermediate_values == dict(enumerate(values[: len(trial.intermediate_values)], 1))
    assert len(simulated.backend.report_s) == sum(len(t.intermediate_values) for t in simulated.driver.ledger.trials)


def test_slots_wait_only_while_the_driver_works(simulated: Simulated):
    found = figures(simulated, 0.0, 0.0)
    assert 0.9 < found["slots busy"] <= 1.0
    worked_s = sum(simulated.backend.report_s) + sum(simulated.backend.ask_s) + simulated.backend.tick_s
    assert 0 < worked_s < simulated.backend.now_s
    idle_s = (1 - found["slots busy"]) * SLOTS * (simulated.backend.asked_all_s or 0.0)
    assert idle_s <= worked_s * SLOTS, "no slot waits for anything but the driver"


def test_the_ledger_counts_the_time_that_was_simulated(simulated: Simulated):
    known = budget_status(simulated.driver.ledger, None)
    assert known["wall_hours"] == pytest.approx(simulated.backend.now_s / 3600, rel=0.01)
    trained_s = sum(end - start for start, end in simulated.backend.spans)
    assert known["gpu_hours"] * 3600 == pytest.approx(trained_s, rel=0.01)
    trained_hours = known["useful_hours"] + known["pruned_hours"]
    assert trained_hours / known["gpu_hours"] > 1 - 5 / EPOCH_S[0] - 0.02, "all but the five seconds to start"
