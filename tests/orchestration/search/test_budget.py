"""What a sweep's time was for, and what a spent budget does; with a clock that only the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.ledger.status import status
from refsweep.orchestration.ledger.usage import Devices, attempts_of, devices_of, with_useful
from refsweep.orchestration.search.budget import outlook
from refsweep.orchestration.search.driver import Driver, Next, Verdict
from refsweep.orchestration.search.failures import Failure
from refsweep.orchestration.search.protocol import Assignment, Report
from refsweep.orchestration.spec.schema import Resources, make_spec
from refsweep.orchestration.tracking.projector import Projector
from refsweep.search_spaces import toy
from refsweep.trainables.training.checkpoints import Name, packed

EPOCHS = 3


class Sweep:
    """A driver, its clock, and trials that do as they are told."""

    def __init__(self, folder: Path, *, slots: int = 2, trials: int = 4, gpus: float = 0.0, **budget: float) -> None:
        self.now_s = 1_000_000.0
        content = {
            "name": "b",
            "trainable": "toy",
            "data": "none",
            "storage": str(folder),
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": trials, "sampler": "random", "pruner": "none"},
            "resources": {"cpus_per_worker": 2},
            "fixed": {"epochs": EPOCHS},
            "budget": budget,
        }
        self.spec, self.slots, self.gpus = make_spec(content), slots, gpus
        self.driver = self.new_driver()

    def new_driver(self) -> Driver:
        """As `run` makes one: of whatever the ledger holds."""
        spec = self.spec
        ledger = Ledger.create(spec.ledger_url, "b", ["min"], spec.as_json())
        ledger.take_lease()
        kept: dict[str, Any] = {"posthoc": {}, "data": None, "fingerprint": "none", "clock": lambda: self.now_s}
        return Driver(spec, ledger, toy.space, slots=self.slots, gpus=self.gpus, **kept)

    def killed_and_resumed(self, after_s: float) -> None:
        """The driver writes nothing more; its lease is free."""
        self.driver.ledger.close()
        self.now_s += after_s
        self.driver = self.new_driver()

    def start(self) -> Assignment:
        found = self.driver.next()
        assert isinstance(found, Assignment)
        return found

    def epoch(self, a: Assignment, epoch: int, seconds: float, *, final: bool = False) -> Verdict:
        """Trains it, writes its checkpoint and reports it; the clock does not move."""
        found = self.driver.checkpoints(a.number)
        newest = found.newest()
        history = newest.history if newest is not None else []
        metrics = {"loss": 1.0 / epoch}
        entry = {
            "epoch": epoch,
            "time_ms": int(self.now_s * 1000),
            "seconds": seconds,
            "metrics": metrics,
            "setting": {},
        }
        found.write(Name(a.attempt, epoch), packed({}, {}), {"history": [*history, entry], "final": final}, set())
        return self.driver.on_report(Report(number=a.number, attempt=a.attempt, entries=[entry], final=final))

    def hours(self, *, running: bool = True) -> dict[str, float]:
        """The outlook in seconds."""
        found = outlook(self.driver.ledger, self.now_s if running else None)
        return {k.removesuffix("_hours"): round(v * 3600, 6) for k, v in found.items() if k.endswith("_hours")}


def test_a_trial_that_trained_all_the_time_but_for_its_start(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 12 if epoch == 1 else 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3)
    sweep.now_s += 5
    sweep.driver.budget.end()
    found = sweep.hours(running=False)
    assert found == {
        "useful": 60.0,  # 30 s on two CPUs
        "wasted": 4.0,
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
    found = sweep.hours()
    assert (found["unfinished"], found["waiting"], found["gpu"], found["cpu"]) == (20.0, 20.0, 20.0, 80.0)
    assert outlook(sweep.driver.ledger, sweep.now_s)["unit"] == "gpu"


def test_a_failed_attempt_and_its_repetition_are_charged_and_what_was_kept_is_useful(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 10
    sweep.epoch(a, 1, 10.0)
    sweep.now_s += 7  # into the second epoch, which is lost
    sweep.driver.on_failure(a.number, 1, Failure("lost", "the worker was lost"))
    sweep.now_s += 3  # nobody runs
    again = sweep.start()
    sweep.now_s += 11
    sweep.epoch(again, 2, 10.0)
    sweep.now_s += 10
    sweep.epoch(again, 3, 10.0, final=True)
    found = sweep.hours()
    assert (found["useful"], found["wasted"], found["waiting"], found["cpu"]) == (60.0, 16.0, 6.0, 76.0)
    assert [a["useful_s"] for a in attempts_of(sweep.driver.ledger.trials[0])] == [10.0, 20.0]


def test_a_killed_driver_is_charged_up_to_its_last_sign_of_life_and_not_for_the_night_after(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    sweep.now_s += 70
    sweep.driver.budget.beat()
    sweep.now_s += 20
    sweep.epoch(a, 1, 90.0)  # 90 s after the start, in the checkpoint's history only
    sweep.now_s += 15
    sweep.killed_and_resumed(30_000)
    assert sweep.hours(running=False)["cpu"] == 140.0, "what the ledger knows"
    again = sweep.start()
    assert sweep.hours()["cpu"] == 180.0, "what the checkpoint knows"
    assert round(sweep.driver.budget.used()["cpu_hours"] * 3600, 6) == 180.0
    for epoch in (2, 3):
        sweep.now_s += 90
        sweep.epoch(again, epoch, 90.0, final=epoch == 3)
    sweep.driver.budget.end()
    assert sweep.hours(running=False)["useful"] == 540.0


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
            sweep.driver.on_failure(live[0][0].number, live[0][0].attempt, Failure("lost", "gone"))
            live.pop(0)
        while len(live) < 2 and isinstance(found := sweep.driver.next(), Assignment):
            live.append((found, len(sweep.driver.ledger.trials[found.number].intermediate_values)))
        sweep.driver.budget.beat()
        a, done = live.pop(0) if live else (None, 0)
        if a is not None and sweep.epoch(a, done + 1, 2.0, final=done + 1 == EPOCHS) is Verdict.GO_ON:
            live.append((a, done + 1))
        used, known = sweep.driver.budget.used(), sweep.hours()
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
    assert sweep.driver.next() is Next.WAIT
    said = str(sweep.driver.ledger.attributes["spent"])
    assert said.startswith(f"budget.{name} is spent: {100.1 * per_s / 3600:.4g} of {100 * per_s / 3600:.4g}")
    for a in live:
        sweep.driver.on_report(Report(number=a.number, attempt=a.attempt, stopped=True))
    assert sweep.driver.next() is Next.FINISHED
    sweep.driver.budget.end()
    assert [t.state.name for t in sweep.driver.ledger.trials] == ["RUNNING"] * 2
    sweep.killed_and_resumed(500)
    assert sweep.driver.next() is Next.FINISHED, "the same budget is still spent, whoever drives"
    content = sweep.spec.as_json()
    content["budget"][name] *= 2
    sweep.spec = make_spec(content)
    sweep.killed_and_resumed(500)
    assert isinstance(sweep.driver.next(), Assignment)


def test_a_budget_spent_by_the_last_trial_stops_nothing(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1, cpu_hours=60 / 3600)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3)
    assert not sweep.driver.must_stop()
    assert "spent" not in sweep.driver.ledger.attributes


def test_the_forecast_by_hand(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=2, trials=6)
    first, second = sweep.start(), sweep.start()
    sweep.now_s += 10
    for epoch in (1, 2, 3):
        sweep.epoch(first, epoch, 3.0, final=epoch == 3)  # 20 CPU-seconds, complete
    sweep.driver.on_failure(second.number, 1, Failure("out_of_memory", "no memory"))  # 20, pruned
    third = sweep.start()
    sweep.now_s += 5
    assert third.number == 2
    coming = outlook(sweep.driver.ledger, sweep.now_s)["forecast"]
    # 20 a trial; 3 to come = 60, 10 left of the running one, 50 held so far: 120; 70 left on 2 x 2 CPUs
    assert coming["total_hours"] * 3600 == pytest.approx(120)
    assert coming["left_hours"] * 3600 == pytest.approx(70)
    assert coming["left_wall_hours"] * 3600 == pytest.approx(17.5)
    assert "3 to come x 20 + 10 left of 1 running + 50 held so far = 120 CPU s" in coming["how"]
    assert "budget" in status(sweep.driver.ledger)


def test_an_epoch_that_went_on_from_a_checkpoint_counts_for_both_attempts():
    attempts = [
        {"began_s": 0.0, "ended_s": 50.0, "useful_s": None, "gpus": 0, "cpus": 1},
        {"began_s": 100.0, "ended_s": 120.0, "useful_s": None, "gpus": 0, "cpus": 1},
    ]
    history = [{"time_ms": 30_000, "seconds": 25.0}, {"time_ms": 120_000, "seconds": 35.0}]
    found = with_useful(attempts, history, inherited=False)
    assert [a["useful_s"] for a in found] == [40.0, 20.0], "15 s of the second epoch were trained before the stop"


def test_epochs_of_the_trial_that_a_successor_goes_on_from_are_not_its_own():
    attempt = {"began_s": 100.0, "ended_s": 160.0, "useful_s": None, "gpus": 0, "cpus": 1}
    history = [{"time_ms": 30_000, "seconds": 25.0}, {"time_ms": 150_000, "seconds": 35.0}]
    assert with_useful([attempt], history, inherited=True)[0]["useful_s"] == 35.0


def test_what_a_trial_of_several_workers_holds():
    assert devices_of(Resources(cpus_per_worker=3), 0.5) == Devices(0.5, 3.0)
    two = Resources.model_construct(workers=(1, 4), cpus_per_worker=3)
    assert devices_of(two, 1.0) == Devices(4.0, 12.0), "of an elastic number the largest: it is kept for it"


def test_mlflow_has_the_figures_and_those_sent_twice_are_one_row(tmp_path: Path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    a = sweep.start()
    for epoch in (1, 2, 3):
        sweep.now_s += 10
        sweep.epoch(a, epoch, 10.0, final=epoch == 3)
    sweep.driver.budget.end()
    ledger = sweep.driver.ledger
    for _ in range(2):  # two processes
        projector = Projector(f"sqlite:///{tmp_path}/mlflow.db", ledger, sweep.driver.checkpoints)
        projector.reconcile()
        projector.sweep("finished")
    runs = {r.data.tags.get("refsweep.kind"): r for r in projector._search("tags.`refsweep.sweep` = 'b'")}
    for kind, key, value in (("trial", "spent.useful_cpu_s", 60.0), ("sweep", "spent.cpu_hours", 60 / 3600)):
        rows = projector.client.get_metric_history(runs[kind].info.run_id, key)
        assert [row.value for row in rows] == [pytest.approx(value)]
