"""Sweeps as their users run them: extended, retried, refused, on a full disk, with MLflow away; on Ray Tune."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.util.placement_group import placement_group_table
from refsweep.cluster.programs import free_port
from refsweep.datasets.problems import InputError
from refsweep.orchestration.execution.tune import TuneBackend
from refsweep.orchestration.ledger.lease import LeaseTakenError
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.read import make_spec, override
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import Outcome, find_sweep, open_sweep
from refsweep.orchestration.tracking.client import make_client
from refsweep.orchestration.tracking.projector import SWEEP, SWEEP_ID, TRIAL
from refsweep.tests.help import facts, run_inline

pytestmark = pytest.mark.usefixtures("ray_local")


def spec_of(storage: Path, *overrides: str, **parts: Any) -> SweepSpec:
    content = {
        "name": "s",
        "trainable": "toy",
        "data": "none",
        "storage": str(storage),
        "tracking": "none",
        "objective": {"metric": "loss", "mode": "min"},
        "search": {"trials": 2, "sampler": "tpe", "pruner": "none", "startup": 2},
        "resources": {"max_concurrent": 1},
        "fixed": {"epochs": 3},
    }
    return make_spec(override({**content, **parts}, overrides))


@dataclass
class Run:
    """A run of a sweep that has ended."""

    outcome: Outcome
    ledger: Ledger

    @property
    def state(self) -> str:
        return str(self.outcome.state)


def run(spec: SweepSpec, **how: bool) -> Run:
    """On the test session's Ray."""
    with open_sweep(spec) as sweep:
        return Run(sweep.run(TuneBackend(lambda: None, lambda _: None), **how), sweep.ledger)


def synced(ledger_url: str) -> dict[str, int]:
    """What MLflow is brought up to."""
    with find_sweep(ledger_url, "s") as sweep:
        return sweep.sync()


def extended(ledger_url: str, *changes: str) -> SweepSpec:
    """The stored spec of the sweep, changed."""
    with find_sweep(ledger_url, "s") as sweep:
        sweep.change(changes)
        return sweep.spec


def test_a_finished_sweep_is_extended_and_ends_as_one_that_was_longer_from_the_start(tmp_path: Path):
    short = run(spec_of(tmp_path / "a"))
    assert (short.state, len(short.ledger.trials)) == ("finished", 2)
    groups = [group["name"] for group in placement_group_table().values()]
    assert any(name.startswith(f"refsweep/s/{short.ledger.record.id}/") for name in groups), "they say whose they are"
    ends = [t.datetime_complete for t in short.ledger.trials]
    longer = run(extended(short.ledger.url, "search.trials=5"), resuming=True)
    assert [t.datetime_complete for t in longer.ledger.trials[:2]] == ends, "what was finished is left alone"
    assert facts(longer.ledger) == inline(spec_of(tmp_path / "b", "search.trials=5"))
    assert longer.ledger.record.spec["search"]["trials"] == 5


def test_a_failed_trial_is_tried_again_by_a_successor_from_its_checkpoint(tmp_path: Path):
    whole = inline(spec_of(tmp_path / "whole", "fixed.noise=1"))
    mark = tmp_path / "mark"
    failing = ["fixed.noise=1", "fixed.fail_at_epoch=3", f"fixed.fail_once={mark}", "retry.max_retries=0"]
    first = run(spec_of(tmp_path / "s", *failing))
    assert [t.state.name for t in first.ledger.trials] == ["FAIL", "COMPLETE"]
    again = run(spec_of(tmp_path / "s", *failing), resuming=True, retry_failed=True)
    assert [t.state.name for t in again.ledger.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    successor = again.ledger.trials[2]
    assert successor.user_attrs["retry_of"] == 0
    assert successor.params == again.ledger.trials[0].params
    assert successor.intermediate_values == whole[0][-1]
    names = [p.name for p in (tmp_path / "s" / "s" / "2").iterdir()]
    assert "epoch-0001.1" not in names, "epochs that the failed trial had finished are not trained again"
    assert {"epoch-0002.0", "epoch-0002.1"} & set(names)
    assert len(run(spec_of(tmp_path / "s", *failing), retry_failed=True).ledger.trials) == 3, "it has its successor"


def test_the_same_name_with_another_spec_is_refused_with_the_difference(tmp_path: Path):
    run(spec_of(tmp_path))
    with pytest.raises(InputError) as refused:
        run(spec_of(tmp_path, "search.seed=1", "search.trials=9", "fixed.epochs=4", "retry.max_retries=0"))
    first, *lines = str(refused.value).splitlines()
    assert "sweep 's' exists with another spec" in first
    assert [line.strip() for line in lines] == ['fixed: {"epochs": 3} -> {"epochs": 4}', "search.seed: 0 -> 1"]
    assert run(spec_of(tmp_path, "search.trials=3", "retry.max_retries=0")).state == "finished"


def test_a_second_driver_is_refused_and_the_first_loses_nothing(tmp_path: Path):
    run(spec_of(tmp_path))
    first = Ledger.open(spec_of(tmp_path).ledger_url, "s")
    first.take_lease()
    with pytest.raises(LeaseTakenError, match="sweep 's' has a driver already"):
        run(spec_of(tmp_path, "search.trials=3"))
    with pytest.raises(LeaseTakenError):
        synced(first.url)
    assert first.still_ours()
    first.close()


def test_changed_data_is_refused(tmp_path: Path, made_copy: Path):
    parts: dict[str, Any] = {"trainable": "toy", "data": str(made_copy)}
    run(spec_of(tmp_path / "s", **parts))
    frame = next(made_copy.rglob("*.png"))
    frame.write_bytes(frame.read_bytes() + b"more")
    with pytest.raises(InputError, match="the data has changed since sweep 's' began"):
        run(spec_of(tmp_path / "s", "search.trials=3", **parts))


def test_a_budget_ends_a_sweep_and_a_larger_one_goes_on(tmp_path: Path):
    spent = run(spec_of(tmp_path, "search.trials=4", "fixed.seconds_per_epoch=0.4", "budget.cpu_hours=0.0004"))
    assert spent.state == "stopped"
    assert re.fullmatch(r"budget.cpu_hours is spent: 0.000\d+ of 0.0004", spent.outcome.cause)
    assert 1 <= len(spent.ledger.trials) < 4
    more = run(spec_of(tmp_path, "search.trials=4", "fixed.seconds_per_epoch=0.4"))
    assert [t.state.name for t in more.ledger.trials] == ["COMPLETE"] * 4


def test_two_objectives_are_searched_together(tmp_path: Path):
    both = [{"metric": "loss", "mode": "min"}, {"metric": "height", "mode": "max"}]
    search = {"trials": 4, "sampler": "nsga2", "pruner": "none", "startup": 2}
    done = run(spec_of(tmp_path, objective=both, search=search)).ledger
    assert [t.state.name for t in done.trials] == ["COMPLETE"] * 4
    assert all(len(t.values) == 2 for t in done.trials)
    assert done.reported(0) == {1, 2, 3}
    assert done.best() is not None


# -- MLflow ------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """(URI, function that starts a server there)."""
    port, started = free_port(), []
    uri = f"http://127.0.0.1:{port}"

    def start() -> None:
        command = [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(tmp_path / "artifacts")]
        null = subprocess.DEVNULL
        started.append(subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=null, stderr=null))
        until = time.monotonic() + 90
        while True:
            try:
                make_client(uri)
                return
            except Exception:  # noqa: BLE001  not up yet
                assert time.monotonic() < until, "MLflow does not answer"
                time.sleep(0.3)

    yield uri, start
    for server in started:
        os.killpg(server.pid, 9)
        server.wait()


def in_mlflow(uri: str) -> list[Any]:
    """Every run with all that it holds, and the number of rows of every metric."""
    client = make_client(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    found = []
    for r in client.search_runs(experiments, f"tags.`{SWEEP}` = 's'"):
        rows = {k: client.get_metric_history(r.info.run_id, k) for k in r.data.metrics}
        metrics = {k: sorted((m.step, m.value, m.timestamp) for m in v) for k, v in rows.items()}
        found.append((r.data.tags.get(TRIAL, ""), r.info.run_id, r.info.status, dict(r.data.params), metrics))
    return sorted(found)


def test_mlflow_away_from_start_to_end_costs_nothing_and_sync_sends_everything_once(
    tmp_path: Path, mlflow_server: tuple[str, Any]
):
    uri, start = mlflow_server
    failing = ["fixed.fail_at_epoch=2", f"fixed.fail_once={tmp_path / 'mark'}", "retry.max_retries=0"]
    spec = spec_of(tmp_path / "s", "search.trials=3", *failing, tracking=uri)
    outcome = run(spec)
    assert outcome.state == "finished"
    assert outcome.outcome.mlflow_behind is not None
    assert [t.state.name for t in outcome.ledger.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    start()
    for _ in range(2):
        assert synced(spec.ledger_url) == {"trials": 3, "deleted": 0}
    ledger = Ledger.open(spec.ledger_url, "s")
    ledger.close()
    found = in_mlflow(uri)
    assert [name for name, *_ in found] == ["", "s/0", "s/1", "s/2"]
    assert [status for _, _, status, *_ in found] == ["FINISHED", "FAILED", "FINISHED", "FINISHED"]
    for trial, (_, run_id, _, params, metrics) in zip(ledger.trials, found[1:], strict=True):
        assert ledger.record.run_ids[trial.number] == run_id
        assert [(step, value) for step, value, _ in metrics["loss"]] == sorted(trial.intermediate_values.items())
        assert float(params["x"]) == trial.params["x"]
    synced(spec.ledger_url)
    assert in_mlflow(uri) == found


def test_runs_that_the_ledger_does_not_name_and_runs_left_running_are_put_right(tmp_path: Path):
    spec = spec_of(tmp_path, tracking=f"sqlite:///{tmp_path}/mlflow.db")
    outcome = run(spec)
    assert outcome.outcome.mlflow_behind is None
    before = in_mlflow(str(spec.tracking_uri))
    client = make_client(str(spec.tracking_uri))
    experiment = client.get_experiment_by_name("toy").experiment_id
    others = client.create_run(experiment, tags={SWEEP: "s", SWEEP_ID: "another's", TRIAL: "s/1"}).info.run_id
    for stray in ("s/1", "s/7"):
        client.create_run(experiment, tags={SWEEP: "s", SWEEP_ID: outcome.ledger.record.id, TRIAL: stray})
    client.update_run(before[1][1], status="RUNNING")
    assert synced(spec.ledger_url) == {"trials": 2, "deleted": 2}
    assert [r for r in in_mlflow(str(spec.tracking_uri)) if r[1] != others] == before
    assert client.get_run(others).info.lifecycle_stage == "active"


# -- disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "refsweep-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only the superuser can mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("left_kb", [0, 48])
def test_a_full_disk_halts_the_sweep_as_bad_input_and_with_room_it_ends_as_undisturbed(
    left_kb: int, small_disk: Path, tmp_path: Path
):
    parts = {"search.trials": 4, "fixed.noise": 1}
    changes = [f"{name}={value}" for name, value in parts.items()]
    spec = spec_of(small_disk / "s", *changes)
    run(spec_of(small_disk / "s", *changes, "search.trials=1"))
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(max(0, free - left_kb * 1024)))
    why = halted_by(spec)
    assert FULL.search(why), why
    ballast.unlink()
    resumed = run(spec, resuming=True)
    assert resumed.state == "finished"
    assert facts(resumed.ledger) == inline(spec_of(tmp_path / "whole", *changes))


FULL = re.compile("[Nn]o space left|disk is full")


def halted_by(spec: SweepSpec) -> str:
    """Runs a sweep that is bound to halt for bad input; why it did."""
    try:
        outcome = run(spec)
    except Exception as error:  # noqa: BLE001  where even the halt can't be written; the command line tells them apart
        return str(error)
    return str(outcome.outcome.cause) if outcome.state == "halted" and outcome.outcome.bad_input else ""


def inline(spec: SweepSpec) -> list[Any]:
    """The same sweep in this process, without Ray."""
    return facts(run_inline(spec))


def test_a_truncated_frame_halts_the_sweep_and_is_named(tmp_path: Path, made_copy: Path):
    for frame in made_copy.rglob("*.png"):
        if frame.stem != "000000":  # a video's first frame is looked at before the sweep starts
            frame.write_bytes(frame.read_bytes()[:300])
    fixed = {"tower": "conv-tiny", "weights": None, "crop_px": 16, "frame_px": 32, "feature_dim": 16, "epochs": 1}
    parts: dict[str, Any] = {"objective": {"metric": "hota", "mode": "max"}, "data": str(made_copy), "fixed": fixed}
    outcome = run(spec_of(tmp_path / "s", trainable="ikun", **parts))
    assert outcome.state == "halted"
    assert outcome.outcome.bad_input
    assert ".png" in str(outcome.outcome.cause)
    assert all(t.state == TrialState.RUNNING for t in outcome.ledger.trials)
