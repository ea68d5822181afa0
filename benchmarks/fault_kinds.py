"""What can break under a sweep, and how each is broken and repaired."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..cluster.servers import Server
from .fault_sweeps import FaultySweep, Shape, title_of
from .fault_tools import HEAD, driver_of, fill, small_disk, until_taken_up, worker_of_rank, write_as_zombie

OUTAGE_S = 20.0
ACTOR = ("ray::ResourceTrainable", "ray::TrialActor")  # Tune's actor when it works, and when it was reused
RAYLET = "/raylet/raylet "
SMALL = Shape()  # for most
ONE_SLOT = Shape(slots=1, trials=5, epochs=4, seconds_per_epoch=1.0)
TWO_WORKERS = Shape(slots=1, trials=2, epochs=5, workers=2)  # time enough to find a worker in the logs
STALLING = Shape(trials=4, epochs=4, seconds_per_epoch=3.0)  # without S3 or PostgreSQL nothing goes on
SLOW = Shape(trials=2, epochs=5, seconds_per_epoch=10.0)  # trials talk past a silent host until Ray gives it up
LONG = Shape(trials=6, epochs=4, seconds_per_epoch=4.0)  # without MLflow everything does


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to break a sweep.

    `strike` starts the sweep, breaks something `moments` times, repairs it, and returns when the sweep has ended.
    """

    what: str
    strike: Callable[[FaultySweep, random.Random], None]
    shape: Shape = SMALL
    moments: int = 1
    repeats: int = 1  # attempts that must have been made again, lest the fault has hit nothing
    needs_namespaces: bool = False


def somewhere(sweep: FaultySweep, chance: random.Random, least: int, most: int) -> None:
    """Waits for a random moment: after `least` to `most` finished epochs, somewhere within the next, and not in the
    moment between two trials, when there is nothing to hit."""
    sweep.wait_for_epochs(chance.randint(least, most))
    time.sleep(chance.uniform(0.1, 0.9) * sweep.shape.seconds_per_epoch)
    sweep.wait(lambda: sweep.running() >= sweep.shape.slots)


def kill(sweep: FaultySweep, pid: int) -> None:
    """SIGKILL, and the time of it."""
    sweep.now()
    os.kill(pid, signal.SIGKILL)


# -- processes ---------------------------------------------------------------------------------------------


def busy(sweep: FaultySweep) -> list[tuple[int, int]]:
    """(host, process id) of Tune's actors at a moment when each has a trial: an idle one is nothing to lose."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        actors = list(sweep.processes(*ACTOR))
        if len(actors) == sweep.running() == sweep.shape.slots:
            return actors
        time.sleep(0.05)
    raise RuntimeError(f"never were {sweep.shape.slots} actors at work")


def actor(sweep: FaultySweep, chance: random.Random) -> None:
    """A Tune actor is killed: the trial goes on from its checkpoint in another."""
    sweep.drive()
    somewhere(sweep, chance, 1, 5)
    kill(sweep, chance.choice(busy(sweep))[1])
    sweep.wait_for_driver()


def worker(sweep: FaultySweep, chance: random.Random) -> None:
    """Of two workers of a trial the second is killed, of the next trial the first."""
    sweep.drive()
    for trial, rank in enumerate((1, 0)):
        first = trial * sweep.shape.epochs + 1
        somewhere(sweep, chance, first, first)
        kill(sweep, worker_of_rank(sweep, rank))
    sweep.wait_for_driver()


def driver(sweep: FaultySweep, chance: random.Random) -> None:
    """The job that drives is killed; the sweep is submitted again."""
    sweep.submit()
    somewhere(sweep, chance, 1, 6)
    kill(sweep, driver_of(sweep))
    sweep.submit_again()


def head(sweep: FaultySweep, chance: random.Random) -> None:
    """The head's host is killed. A driver elsewhere ends by itself, and says how to go on; on a fresh cluster the
    sweep does."""
    sweep.drive(host=1)
    somewhere(sweep, chance, 1, 6)
    sweep.now()
    sweep.cluster.kill_host(HEAD)
    ended = sweep.outcome(timeout_s=90)
    if ended.returncode != 1 or "continues it" not in ended.stderr:
        raise RuntimeError(f"a driver without a head ended with {ended.returncode}: {ended.stderr[-3000:]}")
    sweep.cluster.restart()
    sweep.submit()
    sweep.wait_for_job()


def everything(sweep: FaultySweep, chance: random.Random) -> None:
    """Every host with the driver, and every server, at once. The servers come back with their data, the cluster
    empty."""
    cluster = sweep.cluster
    sweep.submit()
    somewhere(sweep, chance, 1, 6)
    servers: Sequence[Server] = (cluster.s3, cluster.postgres, cluster.mlflow)
    sweep.now()
    for server in servers:
        server.stop()
    for host in range(cluster.hosts):
        cluster.kill_host(host)
    for server in (cluster.s3, cluster.postgres, cluster.mlflow):
        server.start()
    cluster.restart()
    sweep.submit()
    sweep.wait_for_job()


def hang(sweep: FaultySweep, chance: random.Random) -> None:
    """A worker neither goes on nor ends."""
    sweep.drive()
    somewhere(sweep, chance, 1, 5)
    pid = chance.choice(busy(sweep))[1]
    sweep.now()
    os.kill(pid, signal.SIGSTOP)
    try:
        sweep.wait_for_driver()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# -- hosts -------------------------------------------------------------------------------------------------


def node(sweep: FaultySweep, chance: random.Random) -> None:
    """A host with all its processes, in the middle of an epoch. It comes back later."""
    sweep.drive()
    somewhere(sweep, chance, 1, 5)
    host = chance.choice(busy(sweep))[0]
    sweep.now()
    sweep.cluster.kill_host(host)
    time.sleep(OUTAGE_S)
    sweep.cluster.start_host(host)
    sweep.wait_for_driver()


def partition(sweep: FaultySweep, chance: random.Random) -> None:
    """A worker's host is cut off from the head, for longer than Ray waits."""
    sweep.drive()
    somewhere(sweep, chance, 1, 4)
    host = chance.choice(busy(sweep))[0]
    sweep.now()
    sweep.cluster.partition(host)
    time.sleep(2 * OUTAGE_S)
    sweep.cluster.heal(host)
    sweep.wait_for_driver()


def zombie(sweep: FaultySweep, chance: random.Random) -> None:
    """A host falls silent, so that its trial is taken up elsewhere, while its worker lives, and writes for 10 s."""
    sweep.drive()
    somewhere(sweep, chance, 1, 1)
    host, pid = chance.choice(busy(sweep))
    raylets = [p for p in sweep.cluster.pids(host) if RAYLET in title_of(p)]
    sweep.now()
    for raylet in raylets:
        os.kill(raylet, signal.SIGSTOP)
    try:
        number = until_taken_up(sweep)
        if not title_of(pid):
            raise RuntimeError("the worker of the earlier attempt has ended: nothing was tested")
        write_as_zombie(sweep, number)
        sweep.wait_for_driver()
    finally:
        for raylet in raylets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(raylet, signal.SIGCONT)


def disk(sweep: FaultySweep, chance: random.Random) -> None:
    """A host has no byte left where Ray keeps its files: sessions, logs of workers, their temporary folders."""
    with small_disk(sweep.cluster, 2) as place:
        sweep.drive()
        somewhere(sweep, chance, 1, 4)
        sweep.now()
        fill(place)
        sweep.wait_for_driver()


# -- servers -----------------------------------------------------------------------------------------------


def outage(name: str) -> Callable[[FaultySweep, random.Random], None]:
    """A server is killed and comes back after 20 s; then it hangs for 20 s."""

    def strike(sweep: FaultySweep, chance: random.Random) -> None:
        server: Server = getattr(sweep.cluster, name)
        sweep.drive()
        somewhere(sweep, chance, 1, 2)
        sweep.now()
        server.stop()
        time.sleep(OUTAGE_S)
        server.start()
        time.sleep(chance.uniform(1, 2) * sweep.shape.seconds_per_epoch)
        sweep.now()
        server.pause()
        time.sleep(OUTAGE_S)
        server.resume()
        sweep.wait_for_driver()

    return strike


FAULTS = {
    "worker": Fault("a worker of two killed: rank 1, then rank 0", worker, TWO_WORKERS, moments=2, repeats=2),
    "actor": Fault("a Tune actor killed", actor),
    "node": Fault("a node killed", node),
    "driver": Fault("the driver job killed", driver, ONE_SLOT),
    # a trial that runs goes on without a head, and may end before Ray gives up
    "head": Fault("the head killed", head, ONE_SLOT, repeats=0),
    "everything": Fault("everything killed at once", everything, ONE_SLOT),
    "s3": Fault("S3 gone for 20 s, then silent for 20 s", outage("s3"), STALLING, moments=2, repeats=0),
    "postgres": Fault("PostgreSQL gone for 20 s, then silent", outage("postgres"), STALLING, moments=2, repeats=0),
    "mlflow": Fault("MLflow gone for 20 s, then silent for 20 s", outage("mlflow"), LONG, moments=2, repeats=0),
    "hang": Fault("a worker that hangs", hang, Shape(hang_s=25.0)),
    "disk": Fault("a node's disk full", disk, repeats=0),
    "partition": Fault("a node cut off from the head for 40 s", partition, needs_namespaces=True),
    "zombie": Fault("an earlier attempt writes on for 10 s", zombie, SLOW),
}
