"""What commit 4a374ca left behind is resumed, synced, promoted and loaded by today's code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.tests.earlier import unpack


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return unpack(tmp_path / "out")


def refsweep(*words: str, storage: Path) -> dict[str, Any]:
    program = Path(sys.executable).with_name("refsweep")
    command = [str(program), *words, "--storage", str(storage), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def children(storage: Path, sweep: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`refsweep.sweep` = '{sweep}'")
    return [run for run in found if run.data.tags["refsweep.kind"] == "trial"]


def test_a_stopped_sweep_is_resumed_from_its_checkpoints(storage: Path):
    before = Ledger.open(f"sqlite:///{storage}/ledger.db", "stopped")
    params = [t.params for t in before.trials]
    before.close()
    found = refsweep("sweep", "resume", "stopped", "--plain", storage=storage)
    assert found["state"] == "finished"
    assert [t["number"] for t in found["trials"]] == list(range(6))
    assert {t["state"] for t in found["trials"]} <= {"COMPLETE", "PRUNED"}
    assert [t["params"] for t in found["trials"][:2]] == params
    manifests = sorted((storage / "stopped" / "0").glob("*/manifest.json"))
    last = json.loads(manifests[-1].read_text())
    assert last["attempt"] == 2
    # the first three epochs are those that the earlier code trained, to the millisecond
    assert [e["time_ms"] for e in last["history"][:3]] == sorted(e["time_ms"] for e in last["history"])[:3]
    assert len(children(storage, "stopped")) == 6


def test_a_finished_sweep_is_synced_and_nothing_is_sent_twice(storage: Path):
    runs = {run.info.run_id for run in children(storage, "finished")}
    found = refsweep("sweep", "sync", "finished", storage=storage)
    assert (found["trials"], found["deleted"]) == (6, 0)
    assert {run.info.run_id for run in children(storage, "finished")} == runs


def test_a_finished_sweep_is_extended(storage: Path):
    found = refsweep("sweep", "resume", "finished", "--trials", "8", "--plain", storage=storage)
    assert [t["number"] for t in found["trials"]] == list(range(8))
    assert found["trials"][0]["value"] == pytest.approx(4.526968603295245)


def test_a_promoted_trial_is_the_version_that_is_registered(storage: Path):
    found = refsweep("model", "promote", "finished", storage=storage)
    assert (found["version"], found["trial"], found["replaced"]) == (1, "finished/0", None)


def test_a_registered_version_is_loaded_by_its_own_file(storage: Path):
    code = f"""
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri("sqlite:///{storage}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/toy@champion")
print(json.dumps(model.predict(pandas.DataFrame({{"x": [1.0, 2.0]}}))["height"].tolist()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=storage)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert two == pytest.approx(2 * one)
    assert one == pytest.approx(WEIGHT, abs=1e-4)


WEIGHT = 0.7542  # of the registered line


def test_a_registered_version_is_evaluated(storage: Path):
    found = refsweep("model", "evaluate", "toy", "--data", "none", storage=storage)
    assert found["metrics"]["height"] < 0
