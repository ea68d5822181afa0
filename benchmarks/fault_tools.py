"""What breaking a sweep takes: finding its processes, filling disks, writing as a worker that should be gone."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ..cluster.local import LocalCluster
from ..cluster.programs import MissingError
from ..datasets.storage.store import Store
from ..orchestration.ledger.records import TrialRecord
from ..trainables.training.checkpoints import Checkpoints, Name, packed
from .fault_sweeps import FaultySweep, title_of

ZOMBIE_S = 10.0
HEAD = 0
WORKER = ("ray::RayTrainWorker",)


def worker_of_rank(sweep: FaultySweep, rank: int) -> int:
    """Process id of a Ray Train worker, which only the log of its run tells, once there is one."""
    workers: list[tuple[float, int]] = []

    def look() -> bool:
        alive = {pid for _, pid in sweep.processes(*WORKER)}
        for host in range(sweep.cluster.hosts):
            for log in sweep.cluster.host_temp(host).resolve().rglob("logs/train/*controller*.log"):
                for pid in re.findall(rf"pid=(\d+)\) world_rank={rank}\b", log.read_text(errors="replace")):
                    workers.extend([(log.stat().st_mtime, int(pid))] if int(pid) in alive else [])
        return bool(workers)

    sweep.wait(look)
    return max(workers)[1]


def driver_of(sweep: FaultySweep) -> int:
    """Process id of a job's driver: the one whose working folder is the job's."""
    for pid in sweep.cluster.pids(HEAD):
        if "-m refsweep.orchestration.cli.job" in title_of(pid) and not title_of(pid).startswith("/bin/"):
            with contextlib.suppress(OSError):
                if sweep.name in Path(f"/proc/{pid}/cwd/job.json").read_text():
                    return pid
    raise RuntimeError(f"sweep {sweep.name} has no driver")


def until_taken_up(sweep: FaultySweep) -> int:
    """The number of a trial that is in its second attempt, once there is one."""
    numbers: list[int] = []

    def look() -> bool:
        numbers[:] = [t.number for t in sweep.ledger.trials if TrialRecord.of(t).attempt > 1]
        return bool(numbers)

    sweep.wait(look)
    return numbers[0]


def write_as_zombie(sweep: FaultySweep, number: int) -> None:
    """What a worker of the first attempt could write at worst: ever later epochs, with figures of its own. Until the
    second attempt has a checkpoint, the first one's are what it should go on from."""
    checkpoints = Checkpoints(Store(f"{sweep.cluster.storage}/{sweep.name}/{number}"))
    sweep.wait(lambda: any(name.attempt > 1 for name in checkpoints.names()))
    newest = checkpoints.newest()
    assert newest is not None
    until = time.monotonic() + ZOMBIE_S
    model, state, facts = newest.model(), newest.state(), dict(newest.manifest)
    epoch = newest.name.epoch
    while time.monotonic() < until:
        epoch += 1
        entry = {**newest.history[-1], "epoch": epoch, "time_ms": time.time_ns() // 1_000_000}
        entry["metrics"] = dict.fromkeys(entry["metrics"], -999.0)
        history = [*newest.history, entry]
        files = packed(model, state)
        checkpoints.write(Name(1, epoch), files, {**facts, "history": history, "final": True}, set())
        time.sleep(0.2)


@contextlib.contextmanager
def small_disk(cluster: LocalCluster, host: int) -> Iterator[Path]:
    """While open, a host's disk has 256 MiB. Raises MissingError where that can't be arranged."""
    place = cluster.host_temp(host).resolve()
    cluster.kill_host(host)
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", place], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise MissingError("a small disk needs the program `mount`") from None
    if made.returncode:
        raise MissingError(f"a small disk needs the right to mount: {made.stderr.strip()}")
    try:
        cluster.mend()
        yield place
    finally:
        cluster.kill_host(host)
        subprocess.run(["umount", "-l", place], check=True)
        cluster.mend()


def fill(place: Path) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), (place / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
