"""Sweeps as jobs of a real Ray cluster: submitted, followed, extended, stopped, killed, refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from refsweep.cluster.local import LocalCluster
from refsweep.datasets.problems import InputError
from refsweep.orchestration.jobs import package as job_package
from refsweep.orchestration.jobs.client import Jobs
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.registry.versions import versions
from refsweep.orchestration.spec.read import make_spec, settle
from refsweep.tests.help import facts, run_inline

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
COMMAND = [sys.executable, "-c", "from refsweep.orchestration.cli.main import main; main()"]
SECRETS = {"HF_TOKEN": "secret-of-the-user", "MLFLOW_TRACKING_PASSWORD": "another-secret-of-the-user"}


class User:
    """Somebody with a spec, the cluster's token and a command line."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.name = f"t{secrets.token_hex(4)}"
        self.content: dict[str, Any] = {
            "name": self.name,
            "trainable": "toy",
            "data": "none",
            "storage": cluster.storage,
            "ledger": cluster.ledger,
            "tracking": "none",
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": 3, "sampler": "tpe", "pruner": "asha", "seed": 3, "startup": 2, "eta": 2},
            "resources": {"max_concurrent": 1},
            "fixed": {"epochs": 4, "noise": 2.0, "seconds_per_epoch": 0.4},
        }
        self.spec = folder / "spec.yaml"

    def write(self) -> None:
        self.spec.write_text(yaml.safe_dump(self.content))

    def slow(self, seconds: float) -> None:
        """Makes epochs so long that commands find the sweep running."""
        self.content["fixed"]["seconds_per_epoch"] = seconds
        self.write()

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, "sweep", *words, "--cluster", self.cluster.dashboard],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
            env={**os.environ, **self.cluster.environment(), **SECRETS, **environment},
        )

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Runs a command to its end. Returns its stdout, with stderr when it fails."""
        process = self.start(*words, **environment)
        out, errors = process.communicate(timeout=240)
        assert process.returncode == code, out + errors
        return out if code == 0 else out + errors

    def submit(self, *words: str, code: int = 0) -> str:
        self.write()
        return self.run("submit", str(self.spec), *words, code=code)

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.cluster.ledger, self.name)

    def epochs(self) -> int:
        ledger = Ledger.find(self.cluster.ledger, self.name)
        return sum(len(t.intermediate_values) for t in ledger.trials) if ledger else 0

    def job(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("status", self.name, "--json"))
        return status


@pytest.fixture
def user(cluster: LocalCluster, tmp_path: Path) -> User:
    return User(cluster, tmp_path)


def wait(true: Callable[[], bool], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def undisturbed(user: User, **search: Any) -> list[Any]:
    """What the sweep comes to in one process that nothing happens to."""
    content = {**user.content, "storage": str(user.folder / "whole"), "ledger": None}
    content["search"] = {**content["search"], **search}
    content["fixed"] = {**content["fixed"], "seconds_per_epoch": 0.0}
    spec = settle(make_spec(content))
    ledger = run_inline(spec)
    expected = facts(ledger)
    ledger.close()
    return expected


def test_a_sweep_is_submitted_followed_submitted_again_and_extended(user: User, cluster: LocalCluster):
    words = ["--needs", "AWS_ACCESS_KEY_ID", "--needs", "PGPASSFILE", "--env", "COLOUR=blue-as-the-sea"]
    first = json.loads(user.submit("--follow", "--json", *words))
    assert (first["job"], first["state"], first["exit_code"]) == (f"{user.name}-1", "succeeded", 0)
    assert facts(user.ledger) == undisturbed(user)
    ends = [t.datetime_complete for t in user.ledger.trials]
    user.submit("--follow")
    assert [t.datetime_complete for t in user.ledger.trials] == ends, "a finished sweep is left as it is"
    user.submit("--set", "search.trials=5", "--follow")
    assert facts(user.ledger) == undisturbed(user, trials=5)
    listed = json.loads(user.run("list", "--json"))["jobs"]
    assert [j["job"] for j in listed if j["sweep"] == user.name] == [f"{user.name}-{n}" for n in (1, 2, 3)]
    job = user.job()
    assert (job["job"], job["sweep"]["state"], len(job["sweep"]["trials"])) == (f"{user.name}-3", "finished", 5)
    assert "trial 4  pruned" in user.run("logs", user.name)
    assert "trial 4" not in user.run("logs", user.name, "--job", f"{user.name}-1", "--follow")
    no_secret_is_kept(user, cluster)


def no_secret_is_kept(user: User, cluster: LocalCluster) -> None:
    """Reads all that the cluster keeps of jobs: metadata, runtime environments, logs of every host."""
    jobs = Jobs(cluster.dashboard)
    kept = "\n".join(details.model_dump_json() for details in jobs._client.list_jobs())
    kept += "\n".join(line for job in jobs.of(user.name) for line in jobs.log(job.id))
    for host in range(cluster.hosts):
        for path in cluster.host_temp(host).resolve().rglob("*"):
            if path.is_file() and path.suffix in (".log", ".out", ".err", ".json", ".txt"):
                kept += path.read_text(errors="replace")
    assert "blue-as-the-sea" in kept, "what is looked at holds the job's variables"
    environment = cluster.environment()
    password = Path(environment["PGPASSFILE"]).read_text().strip().rpartition(":")[2]
    for secret in (*SECRETS.values(), environment["AWS_SECRET_ACCESS_KEY"], password, cluster.token_file.read_text()):
        assert secret.strip()
        assert secret.strip() not in kept


def test_a_second_submit_is_refused_stop_is_clean_and_submitting_again_goes_on(user: User):
    user.slow(3.0)
    user.submit()
    wait(lambda: user.epochs() >= 1)
    refused = user.submit(code=2)
    assert f"is already running as job {user.name}-1" in refused
    stopped = json.loads(user.run("stop", user.name, "--json"))
    assert (stopped["state"], stopped["clean"]) == ("stopped", True)
    assert user.ledger.state == "stopped"
    assert "is not running" in user.run("stop", user.name, code=2)
    again = json.loads(user.submit("--follow", "--json"))
    assert again["job"] == f"{user.name}-2", "the refused one was never a job"
    assert facts(user.ledger) == undisturbed(user)


def test_of_two_submits_at_once_one_is_refused(user: User):
    user.slow(3.0)
    both = [user.start("submit", str(user.spec)) for _ in range(2)]
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert any(f"is already running as job {user.name}-1" in text for text in errors)
    user.run("stop", user.name)
    assert [job["sweep"] for job in json.loads(user.run("list", "--json"))["jobs"]].count(user.name) == 1


def test_a_killed_driver_is_told_and_submitting_again_ends_as_if_nothing_had_happened(user: User):
    user.slow(1.0)
    following = user.start("submit", str(user.spec), "--follow")
    wait(lambda: user.epochs() >= 5)
    [driver] = drivers(user)
    os.kill(driver, signal.SIGKILL)
    _, errors = following.communicate(timeout=60)
    assert following.returncode == 1
    assert "was killed by signal 9" in errors
    assert user.ledger.state == "stopped"
    user.submit("--follow")
    assert facts(user.ledger) == undisturbed(user)
    assert {t.state.name for t in user.ledger.trials} <= {"COMPLETE", "PRUNED"}


def drivers(user: User) -> list[int]:
    """Processes that drive the user's sweep: the spec in their working folder has its name."""
    pids: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            if words[1:3] == ["-m", "refsweep.orchestration.cli.job"]:
                job = json.loads((process / "cwd" / "job.json").read_text())
                pids += [int(process.name)] if job["spec"]["name"] == user.name else []
    return pids


def test_a_client_that_is_interrupted_or_killed_changes_nothing_for_the_job(user: User):
    user.slow(2.0)
    first = user.start("submit", str(user.spec), "--follow")
    wait(lambda: user.epochs() >= 1)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=30)
    assert first.returncode == 1
    assert f"job {user.name}-1 keeps running" in errors
    second = user.start("logs", user.name, "--follow")
    before = user.epochs()
    wait(lambda: user.epochs() > before)
    second.kill()
    second.communicate()
    user.run("logs", user.name, "--follow")
    assert user.job()["state"] == "succeeded"
    assert facts(user.ledger) == undisturbed(user)


def test_another_version_on_the_cluster_is_named_and_nothing_is_started(
    user: User, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
):
    ours = {**versions(), "python": "3.99.1", "torch": "9.8.7+cu999", "refsweep": "0123"}
    monkeypatch.setattr(job_package, "versions", lambda: ours)
    jobs = Jobs(cluster.dashboard)
    job = jobs.submit(make_spec(user.content))
    with pytest.raises(InputError) as refused:
        jobs.until_begun(job.id)
    mine = re.escape(versions()["python"])
    assert re.search(rf"the cluster has Python {mine}, the machine that submits has 3\.99\.1", str(refused.value))
    assert re.search(r"torch \S+, the machine that submits has 9\.8\.7\+cu999", str(refused.value))
    assert "refsweep" in str(refused.value)
    assert "Ray" not in str(refused.value)
    assert Ledger.find(cluster.ledger, user.name) is None


def test_what_hosts_lack_is_named_for_each_and_nothing_is_started(user: User, cluster: LocalCluster):
    refused = user.submit("--needs", "NOT_THERE", "--needs", "AWS_ACCESS_KEY_ID", code=2)
    assert len(re.findall(r"host \S+ has no NOT_THERE", refused)) == (cluster.hosts if cluster.namespaces else 1)
    assert "AWS_ACCESS_KEY_ID" not in refused
    assert Ledger.find(cluster.ledger, user.name) is None


def test_what_only_the_job_can_refuse_is_exit_code_2_too(user: User):
    assert "1 worker of 64 CPUs" in user.submit("--set", "resources.cpus_per_worker=64", code=2)
    user.submit("--follow")  # a start that was refused does not use up the name
    changed = user.submit("--set", "search.seed=4", code=2)
    assert "exists with another spec" in changed
    assert "search.seed: 3 -> 4" in changed


def test_a_wrong_and_a_missing_token_are_told(user: User, cluster: LocalCluster, tmp_path: Path):
    user.write()
    nobody = {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    assert "requires a token" in user.run("submit", str(user.spec), code=2, **nobody)
    wrong = user.run("submit", str(user.spec), code=2, RAY_AUTH_TOKEN="f" * 48)
    assert "rejects this token" in wrong
    assert "f" * 48 not in wrong
