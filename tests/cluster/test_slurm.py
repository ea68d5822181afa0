"""`cluster/slurm.sbatch` under a real SLURM of two nodes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from refsweep.tests.cluster.slurm import BIN, PROGRAMS, Slurm, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]  # a first start reads gigabytes of libraries
SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sbatch"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        reason = f"SLURM is not installed (Debian: slurm-wlm): no {', '.join(missing)}"
        if os.environ.get("REFSWEEP_NO_SKIPS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    # a short path, since sockets lie in it
    with tempfile.TemporaryDirectory(prefix="rs-", ignore_cleanup_errors=True) as folder:
        made = Slurm(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.end()


def processes_of(job: str) -> list[int]:
    """Processes of Ray that a job has left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"/ray-{job}-n".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_sweep_goes_on_after_a_requeue_in_mid_epoch(slurm: Slurm):
    spec = {
        "name": "s",
        "trainable": "toy",
        "data": "none",
        "storage": f"{slurm.work}/out",
        "tracking": "none",
        "objective": {"metric": "loss", "mode": "min"},
        "search": {"trials": 4, "sampler": "tpe", "pruner": "none", "seed": 1},
        "fixed": {"epochs": 12, "seconds_per_epoch": 0.4},
    }
    (slurm.work / "spec.yaml").write_text(yaml.safe_dump(spec))
    job = slurm.submit("--nodes=2", str(SCRIPT), "spec.yaml")
    until(lambda: "epoch 6/12" in slurm.log(job), "a trial is in mid-way", 180)
    token = Path(slurm.env["HOME"], ".refsweep", f"slurm-{job}.token")
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert token.read_text() not in slurm.call("ps", "-eo", "args")
    assert "2 of 2 nodes, 2 CPUs" in slurm.log(job)

    slurm.call("scontrol", "requeue", job)
    until(lambda: slurm.job(job)["Restarts"] == "1", "the job is queued again", 30)
    first = slurm.log(job)
    slurm.wait(job, "COMPLETED", 240)
    second = slurm.log(job)[len(first) :]
    assert "sweep s: finished (4 complete)" in second

    status = json.loads(slurm.call(str(BIN / "refsweep"), "sweep", "status", "s", "--storage", "out", "--json"))
    assert status["state"] == "finished"
    assert [(t["number"], t["state"], t["epoch"]) for t in status["trials"]] == [(n, "COMPLETE", 12) for n in range(4)]
    # those that lived at the requeue went on from their checkpoints: no early epoch of theirs was trained again
    lived = [n for n in range(4) if f"trial {n}  running  epoch 6/12" in first and f"trial {n}  complete" not in first]
    assert lived
    for number in lived:
        assert not any(f"trial {number}  running  epoch {epoch}/12" in second for epoch in range(1, 6))
    assert not token.exists()
    until(lambda: not processes_of(job), f"no process of Ray left: {processes_of(job)}", 20)


STAND_INS = {
    "ray": "#!/bin/bash\nexec sleep 300\n",
    "python": "#!/bin/bash\n",  # all nodes have joined
    "refsweep": """#!/bin/bash
n=$(($(cat tries 2>/dev/null || echo 0) + 1)); echo $n >tries
case $(sed -n "${n}p" plan) in
    killed) kill -KILL $BASHPID ;;
    lost) sleep 2; exit 1 ;;
    wait) exec sleep 300 ;;
    stop) trap 'echo trials write checkpoints; exit 1' TERM; sleep 300 & wait ;;
    *) exit $(sed -n "${n}p" plan) ;;
esac
""",
}


@pytest.fixture
def plan(slurm: Slurm) -> Iterator[Callable[..., object]]:
    """Stand-ins for Ray and refsweep: `plan` says how each driver ends."""
    for name, text in STAND_INS.items():
        path = slurm.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    (slurm.work / "tries").unlink(missing_ok=True)
    yield lambda *ends: (slurm.work / "plan").write_text("".join(f"{end}\n" for end in ends))
    for name in STAND_INS:
        (slurm.root / "bin" / name).unlink()


def tries(slurm: Slurm) -> int:
    path = slurm.work / "tries"
    return int(path.read_text() or 0) if path.exists() else 0


def test_a_killed_driver_is_started_again_by_the_job(slurm: Slurm, plan: Callable[..., object]):
    plan("killed", "0")
    job = slurm.submit(str(SCRIPT), "spec.yaml")
    slurm.wait(job, "COMPLETED")
    assert tries(slurm) == 2


def test_sigterm_before_the_time_limit_stops_the_driver_and_queues_the_job_again(
    slurm: Slurm, plan: Callable[..., object]
):
    plan("stop", "0")
    job = slurm.submit(str(SCRIPT), "spec.yaml")
    until(lambda: tries(slurm) == 1, "the driver runs", 30)
    slurm.call("scancel", "--batch", "--signal=TERM", job)  # what --signal=B:TERM@120 sends
    slurm.wait(job, "COMPLETED")
    assert "trials write checkpoints\ndriver ended with 1" in slurm.log(job)
    assert tries(slurm) == 2


def test_a_driver_that_loses_its_head_is_started_again_by_the_job(slurm: Slurm, plan: Callable[..., object]):
    (slurm.root / "bin" / "ray").write_text("#!/bin/bash\n")  # ends at once
    plan("lost", "0")
    job = slurm.submit(str(SCRIPT), "spec.yaml")
    slurm.wait(job, "COMPLETED")
    assert tries(slurm) == 2


def test_a_driver_that_is_killed_every_time_is_not_started_for_ever(slurm: Slurm, plan: Callable[..., object]):
    plan("killed", "killed", "killed")
    job = slurm.submit(str(SCRIPT), "spec.yaml", REFSWEEP_REQUEUES="1")
    slurm.wait(job, "FAILED")
    assert tries(slurm) == 2
    assert "not requeued: that was done 1 times" in slurm.log(job)


@pytest.mark.parametrize("status", [1, 2])
def test_a_halted_or_refused_sweep_is_not_queued_again(slurm: Slurm, plan: Callable[..., object], status: int):
    plan(status)
    job = slurm.submit(str(SCRIPT), "spec.yaml")
    slurm.wait(job, "FAILED")
    assert slurm.job(job)["ExitCode"] == f"{status}:0"
    assert tries(slurm) == 1


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, plan: Callable[..., object]):
    plan("wait", "0")
    job = slurm.submit(str(SCRIPT), "spec.yaml")
    until(lambda: tries(slurm) == 1, "the driver runs", 30)
    slurm.call("scancel", job)
    slurm.wait(job, "CANCELLED")
    until(lambda: not slurm.call("squeue", "-h", "-j", job), "the job is gone from the queue", 20)
    time.sleep(1)
    assert slurm.job(job)["JobState"] == "CANCELLED"
    assert tries(slurm) == 1
    assert not Path(slurm.env["HOME"], ".refsweep", f"slurm-{job}.token").exists()


def test_without_a_spec_it_says_how_it_is_used(slurm: Slurm):
    job = slurm.submit(str(SCRIPT))
    slurm.wait(job, "FAILED")
    assert slurm.log(job).startswith("usage: sbatch")
    assert slurm.job(job)["ExitCode"] == "2:0"
