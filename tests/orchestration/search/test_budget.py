"""What a spent budget does, what the driver counts, and how that is forecast; slots that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState
from refsweep.orchestration.cli.budget_lines import budget_lines
from refsweep.orchestration.ledger.failure import Failure
from refsweep.orchestration.ledger.status import budget_status, status
from refsweep.orchestration.ledger.usage import HEARTBEAT_S, Devices, attempts_of, devices_of
from refsweep.orchestration.search.protocol import Assignment, NoTrial, Report, Verdict
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import Resources
from refsweep.orchestration.tracking.projector import Projector
from refsweep.tests.orchestration.search.metered import EPOCHS, Sweep


def test_a_trial_that_trained_all_the_time_but_for_its_start(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 12 if epoch == 1 else 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3)
    sweep.now_s += 5
    sweep.driver.budget.end()
    found = sweep.seconds(running=False)
    assert found == {
        "useful": 60.0,  # 30 s on two CPUs
        "startup": 4.0,
        "repeated": 0.0,
        "pruned": 0.0,
        "failed": 0.0,
        "unfinished": 0.0,
        "waiting": 10.0,
        "gpu": 0.0,
        "cpu": 64.0,
        "wall": 37.0,
    }


def test_gpus_are_counted_where_there_are_any_and_shares_of_them_too(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=2, trials=1, gpus=0.5)
    a = sweep.start()
    sweep.now_s += 40
    sweep.epoch(a, 1, 40.0)
    found = sweep.seconds()
    assert (found["unfinished"], found["waiting"], found["gpu"], found["cpu"]) == (20.0, 20.0, 20.0, 80.0)
    assert budget_status(sweep.driver.ledger, sweep.now_s)["unit"] == "gpu"


def test_a_failed_attempt_and_its_repetition_are_charged_and_what_was_kept_is_useful(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 10
    sweep.epoch(a, 1, 10.0)
    sweep.now_s += 7  # into the second epoch, which is lost
    sweep.driver.on_attempt_lost(a.number, 1, Failure("lost", "the worker was lost"))
    sweep.now_s += 3  # nobody runs
    again = sweep.start()
    sweep.now_s += 11
    sweep.epoch(again, 2, 10.0)
    sweep.now_s += 10
    sweep.epoch(again, 3, 10.0, final=True)
    assert sweep.accounts() == {"useful": 60.0, "startup": 2.0, "repeated": 14.0, "waiting": 6.0}
    attempts = attempts_of(sweep.driver.ledger.trials[0])
    assert [(a.useful_s, a.lost_s) for a in attempts] == [(10.0, 7.0), (20.0, 0.0)]


def test_a_killed_driver_is_charged_up_to_its_last_sign_of_life_and_not_for_the_night_after(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 70
    sweep.driver.budget.heartbeat()
    sweep.now_s += 20
    sweep.epoch(a, 1, 90.0)  # 90 s after the start, in the checkpoint's history only
    sweep.now_s += 15
    sweep.killed_and_resumed(30_000)
    assert sweep.seconds(running=False)["cpu"] == 140.0, "what the ledger knows"
    again = sweep.start()
    assert sweep.seconds()["cpu"] == 180.0, "what the checkpoint knows"
    assert round(sweep.driver.budget.used()["cpu_hours"] * 3600, 6) == 180.0
    for epoch in (2, 3):
        sweep.now_s += 90
        sweep.epoch(again, epoch, 90.0, final=epoch == 3)
    sweep.driver.budget.end()
    assert sweep.seconds(running=False)["useful"] == 540.0


@pytest.mark.parametrize("moment", [1, 4, 6, 9])
def test_what_the_driver_counts_as_it_goes_is_what_the_ledger_adds_up_to(tmp_path: Path, moment: int):
    sweep = Sweep(tmp_path, slots=2, trials=3)
    live: list[tuple[Assignment, int]] = []
    for step in range(12):
        sweep.now_s += 3 + step % 4
        if step == moment:
            sweep.killed_and_resumed(1000)
            live = []
        if step == 5 and live:
            sweep.driver.on_attempt_lost(live[0][0].number, live[0][0].attempt, Failure("lost", "gone"))
            live.pop(0)
        while len(live) < 2 and isinstance(found := sweep.driver.next_action(), Assignment):
            live.append((found, len(sweep.driver.ledger.trials[found.number].intermediate_values)))
        sweep.driver.budget.heartbeat()
        a, done = live.pop(0) if live else (None, 0)
        if a is not None and sweep.epoch(a, done + 1, 2.0, final=done + 1 == EPOCHS) is Verdict.GO_ON:
            live.append((a, done + 1))
        used, known = sweep.driver.budget.used(), sweep.seconds()
        assert {k: round(v * 3600, 6) for k, v in used.items()} == {
            f"{k}_hours": known[k] for k in ("gpu", "cpu", "wall")
        }
    assert all(t.state == TrialState.COMPLETE for t in sweep.driver.ledger.trials[:1])


@pytest.mark.parametrize("name", ["gpu_hours", "cpu_hours", "wall_hours"])
def test_a_spent_budget_ends_asking_and_stops_live_trials_and_a_larger_one_goes_on(tmp_path: Path, name: str):
    per_s = {"gpu_hours": 2.0, "cpu_hours": 4.0, "wall_hours": 1.0}[name]  # two trials, 1 GPU and 2 CPUs each
    sweep = Sweep(tmp_path, gpus=1.0, **{name: 100 * per_s / 3600})
    live = [sweep.start(), sweep.start()]
    sweep.now_s += 99.9
    assert not sweep.driver.must_stop()
    sweep.now_s += 0.2
    assert sweep.driver.must_stop()
    assert sweep.driver.next_action() is NoTrial.WAIT
    spent = str(sweep.driver.ledger.record.spent)
    assert spent.startswith(f"budget.{name} is spent: {100.1 * per_s / 3600:.4g} of {100 * per_s / 3600:.4g}")
    for a in live:
        sweep.driver.on_result(Report(number=a.number, attempt=a.attempt, stopped=True))
    assert sweep.driver.next_action() is NoTrial.FINISHED
    sweep.driver.budget.end()
    assert [t.state.name for t in sweep.driver.ledger.trials] == ["RUNNING"] * 2
    sweep.killed_and_resumed(500)
    assert sweep.driver.next_action() is NoTrial.FINISHED, "the same budget is still spent, whoever drives"
    content = sweep.spec.as_json()
    content["budget"][name] *= 2
    sweep.spec = make_spec(content)
    sweep.killed_and_resumed(500)
    assert isinstance(sweep.driver.next_action(), Assignment)


def test_a_budget_spent_by_the_last_trial_stops_nothing(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1, cpu_hours=60 / 3600)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3)
    assert not sweep.driver.must_stop()
    assert sweep.driver.ledger.record.spent is None


def test_the_forecast_by_hand(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=2, trials=6)
    first, second = sweep.start(), sweep.start()
    sweep.now_s += 10
    for epoch in (1, 2, 3):
        sweep.epoch(first, epoch, 3.0, final=epoch == 3)  # 20 CPU-seconds, complete
    sweep.driver.on_attempt_lost(second.number, 1, Failure("out_of_memory", "no memory"))  # 20, pruned
    third = sweep.start()
    sweep.now_s += 5
    assert third.number == 2
    coming = budget_status(sweep.driver.ledger, sweep.now_s)["forecast"]
    # 20 a trial; 3 to come = 60, 10 left of the running one, 50 held so far: 120; 70 left on 2 x 2 CPUs
    assert coming["total_hours"] * 3600 == pytest.approx(120)
    assert coming["left_hours"] * 3600 == pytest.approx(70)
    assert coming["left_wall_hours"] * 3600 == pytest.approx(17.5)
    assert "3 to come x 20 + 10 left of 1 running + 50 held so far = 120 CPU s" in coming["how"]
    assert "budget" in status(sweep.driver.ledger)


def test_what_a_trial_of_several_workers_holds():
    assert devices_of(Resources(cpus_per_worker=3), 0.5) == Devices(0.5, 3.0)
    two = Resources.model_construct(workers=(1, 4), cpus_per_worker=3)
    assert devices_of(two, 1.0) == Devices(4.0, 12.0), "of an elastic number the largest: it is kept for it"


def test_mlflow_has_the_figures_and_those_sent_twice_are_one_row(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 8.0 if epoch == 1 else 10.0, final=epoch == 3)
    sweep.driver.budget.end()
    ledger = sweep.driver.ledger
    for _ in range(2):  # two processes
        projector = Projector(f"sqlite:///{tmp_path}/mlflow.db", ledger, sweep.driver.checkpoints)
        projector.reconcile()
        projector.sweep("finished")
    runs = {r.data.tags.get("refsweep.kind"): r for r in projector._search("tags.`refsweep.sweep` = 'b'")}
    for kind, key, value in (
        ("trial", "spent.useful_cpu_s", 56.0),
        ("trial", "spent.startup_cpu_s", 4.0),
        ("sweep", "spent.cpu_hours", 60 / 3600),
        ("sweep", "spent.startup_hours", 4 / 3600),
    ):
        rows = projector.client.get_metric_history(runs[kind].info.run_id, key)
        assert [row.value for row in rows] == [pytest.approx(value)]
    names = {k.removeprefix("spent.") for k in runs["trial"].data.metrics if k.startswith("spent.")}
    accounts = ("useful", "startup", "repeated", "pruned", "failed")
    assert names == {"attempts", *(f"{name}_cpu_s" for name in accounts)}


# -- slots that come and go --------------------------------------------------------------------------------


def test_waiting_and_forecast_follow_the_number_of_slots(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=2, trials=4)
    first, second = sweep.start(), sweep.start()
    sweep.now_s += 10
    sweep.driver.budget.set_room(4)
    sweep.now_s += 10  # two wait
    sweep.driver.budget.set_room(4)
    sweep.driver.budget.set_room(1)
    sweep.now_s += 10  # two run where one fits
    sweep.epoch(first, 3, 30.0, final=True)
    sweep.epoch(second, 3, 30.0, final=True)
    sweep.now_s += 10  # one waits
    assert sweep.accounts() == {"useful": 2 * 2 * 30, "waiting": 2 * (2 * 10 + 10)}
    began_s = 1_000_000.0
    stored = sweep.driver.ledger.record.drivers[-1]
    assert (stored.slots, stored.rooms) == (2, ((began_s + 10, 4), (began_s + 20, 1)))
    assert stored.spans()[:2] == [
        (began_s, began_s + 10, 2),
        (began_s + 10, began_s + 20, 4),
    ]
    coming = budget_status(sweep.driver.ledger, sweep.now_s)["forecast"]
    assert coming["left_wall_hours"] * 3600 == pytest.approx(60), "two more of 30 s, one after the other"


def test_without_slots_there_is_no_end_to_forecast(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=2)
    a = sweep.start()
    sweep.now_s += 10
    sweep.epoch(a, 3, 10.0, final=True)
    sweep.driver.budget.set_room(0)
    sweep.now_s += 100
    found = budget_status(sweep.driver.ledger, sweep.now_s)
    assert (found["forecast"]["left_wall_hours"], found["forecast"]["ends"]) == (None, None)
    assert found["waiting_hours"] == 0
    assert "no slots now" in budget_lines(found)[-1]


def test_a_clock_that_is_put_back_makes_nothing_negative(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=2, trials=2)
    a = sweep.start()
    sweep.now_s += 10
    sweep.epoch(a, 1, 10.0, training_began_s=sweep.now_s + 3600)
    sweep.now_s -= 5000
    sweep.driver.budget.set_room(3)
    for epoch in (2, 3):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3)
    sweep.start()
    sweep.now_s += HEARTBEAT_S + 1
    sweep.driver.budget.heartbeat()
    assert all(value >= 0 for value in sweep.seconds().values())
    assert all(value >= 0 for value in sweep.driver.budget.used().values())
