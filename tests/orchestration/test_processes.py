"""The real thing: `refsweep` as processes of its own, with a Ray of its own, killed whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from refsweep.orchestration.ledger.database import UnknownSweepError
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.read import make_spec, settle
from refsweep.orchestration.tracking.client import make_client
from refsweep.orchestration.tracking.projector import SWEEP, TRIAL
from refsweep.tests.help import run_inline

# a first start reads gigabytes of libraries from the disk
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
COMMAND = [str(Path(sys.executable).parent / "refsweep")]


class House:
    """A folder in which a user types commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began: list[subprocess.Popen[str]] = []

    def spec(self, **parts: Any) -> Path:
        search = {"trials": 4, "sampler": "tpe", "pruner": "asha", "seed": 3, "startup": 2, "eta": 2}
        content = {
            "name": "s",
            "trainable": "toy",
            "data": "none",
            "objective": {"metric": "loss", "mode": "min"},
            "search": {**search, **parts.pop("search", {})},
            "fixed": {"epochs": 4, "noise": 2.0, "seconds_per_epoch": 0.4, **parts.pop("fixed", {})},
            **parts,
        }
        path = self.folder / "spec.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in a process group of its own, as a shell starts it."""
        began = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "RAY_ADDRESS": "local"},
        )
        self.began.append(began)
        return began

    def run(self, *words: str, code: int = 0) -> str:
        """A command to its end; what it printed."""
        began = self.start(*words)
        out, _ = began.communicate(timeout=240)
        assert began.returncode == code, out
        return out

    def status(self) -> dict[str, Any]:
        out = self.run("sweep", "status", "s", "--json")
        found: dict[str, Any] = json.loads(out[out.index("{") :])
        return found

    def ledger(self) -> Ledger | None:
        try:
            return Ledger.open(f"sqlite:///{self.folder}/refsweep-out/ledger.db", "s")
        except UnknownSweepError:
            return None

    def epochs(self) -> int:
        """How many epochs the ledger knows of."""
        ledger = self.ledger()
        if ledger is None:
            return 0
        found = sum(len(t.intermediate_values) for t in ledger.trials)
        ledger.close()
        return found

    def has_epochs(self, count: int) -> bool:
        return self.epochs() >= count

    def wait(self, true: Callable[[], bool], began: subprocess.Popen[str], timeout_s: float = 150) -> bool:
        """Until something is so; False when the command has ended before."""
        until = time.monotonic() + timeout_s
        while not true():
            if began.poll() is not None:
                return False
            assert time.monotonic() < until
            time.sleep(0.02)
        return True


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    for began in made.began:
        if began.poll() is None:
            kill_group(began)


def kill_group(began: subprocess.Popen[str]) -> None:
    os.killpg(began.pid, signal.SIGKILL)
    began.wait()


def undisturbed(house: House, folder: Path) -> list[Any]:
    """The same sweep in this process, without Ray, and never interrupted."""
    content = yaml.safe_load((house.folder / "spec.yaml").read_text())
    content["fixed"]["seconds_per_epoch"] = 0.0
    spec = settle(make_spec({**content, "storage": str(folder), "tracking": "none"}))
    return values(run_inline(spec))


def values(ledger: Ledger) -> list[Any]:
    return [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in ledger.trials]


def invariants(house: House, trials: int) -> Ledger:
    """What holds of every finished sweep, whatever happened on the way."""
    ledger = house.ledger()
    assert ledger is not None
    assert ledger.record.state == "finished"
    assert not ledger.has_driver()
    assert len(ledger.trials) == trials
    for t in ledger.trials:
        assert t.state.name in ("COMPLETE", "PRUNED")
        assert sorted(t.intermediate_values) == list(range(1, len(t.intermediate_values) + 1)), "no epoch twice or lost"
        assert len(t.intermediate_values) == 4 or t.state.name == "PRUNED"
    client = make_client(f"sqlite:///{house.folder}/refsweep-out/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{SWEEP}` = 's'")
    assert {r.info.status for r in runs} == {"FINISHED"}
    by_trial = {r.data.tags[TRIAL]: r for r in runs if TRIAL in r.data.tags}
    assert len(runs) == trials + 1
    assert sorted(by_trial) == sorted(f"s/{n}" for n in range(trials))
    for t in ledger.trials:
        rows = client.get_metric_history(by_trial[f"s/{t.number}"].info.run_id, "loss")
        assert sorted((m.step, m.value) for m in rows) == sorted(t.intermediate_values.items())
    return ledger


def kill_and_resume(house: House, times: int, last_epoch: int, rng: random.Random) -> list[int]:
    """Kills the whole process group `times` times while epochs pass, resumes one second later; epochs at each kill."""
    began, killed_at = house.start("sweep", "run", "spec.yaml", "--plain"), []
    for _ in range(times):
        wanted = house.epochs() + rng.randint(0, last_epoch // times)
        if not house.wait(partial(house.has_epochs, wanted), began):
            break
        time.sleep(rng.random() * 0.5)
        kill_group(began)
        killed_at.append(house.epochs())
        time.sleep(1.0)
        if house.ledger() is None:  # killed before there was anything to resume
            began = house.start("sweep", "run", "spec.yaml", "--plain")
        else:
            began = house.start("sweep", "resume", "s", "--plain")
    out, _ = began.communicate(timeout=240)
    assert began.returncode == 0, out
    return killed_at


def test_killed_whole_at_random_moments_one_slot_gives_the_values_of_an_undisturbed_sweep(house: House, tmp_path: Path):
    house.spec(resources={"max_concurrent": 1})
    seed = random.randrange(10**6)
    killed_at = kill_and_resume(house, 2, 12, random.Random(seed))
    ledger = invariants(house, 4)
    assert values(ledger) == undisturbed(house, tmp_path / "undisturbed"), f"seed {seed}, killed at {killed_at}"
    assert killed_at


def test_killed_whole_at_random_moments_several_slots_lose_nothing_and_do_nothing_twice(house: House):
    house.spec(resources={"max_concurrent": 2})
    seed = random.randrange(10**6)
    killed_at = kill_and_resume(house, 1, 8, random.Random(seed))
    assert killed_at, f"the sweep ended before it was killed: seed {seed}"
    numbers = [t.number for t in invariants(house, 4).trials]
    assert numbers == [0, 1, 2, 3], f"seed {seed}, killed at {killed_at}"


def test_stopped_by_command_and_by_ctrl_c_trials_keep_their_work_and_the_sweep_goes_on(house: House, tmp_path: Path):
    house.spec(search={"trials": 2}, resources={"max_concurrent": 1}, fixed={"batch": 1, "seconds_per_epoch": 3.0})
    began = house.start("sweep", "run", "spec.yaml", "--plain")
    assert house.wait(lambda: house.epochs() >= 1, began)
    assert "has a driver already" in house.run("sweep", "resume", "s", "--plain", code=2)
    assert "sweep s: stopped" in house.run("sweep", "stop", "s")
    out, _ = began.communicate(timeout=150)
    assert began.returncode == 1, out
    assert "`refsweep sweep resume s` continues it" in out
    found = house.status()
    assert found["state"] == "stopped"
    assert [t["state"] for t in found["trials"]] == ["RUNNING"]

    before = house.epochs()
    began = house.start("sweep", "resume", "s", "--plain")
    assert house.wait(lambda: house.epochs() > before, began)
    os.killpg(began.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    out, _ = began.communicate(timeout=150)
    assert began.returncode == 1, out
    ledger = house.ledger()
    assert ledger is not None
    assert ledger.state == "stopped"
    names = [p.name for p in (house.folder / "refsweep-out" / "s" / str(len(ledger.trials) - 1)).iterdir()]
    assert any("-batch-" in name for name in names), f"a checkpoint within an epoch: {names}"

    house.run("sweep", "resume", "s", "--plain")
    assert values(invariants(house, 2)) == undisturbed(house, tmp_path / "undisturbed")
