"""A real SLURM for tests: a controller and two nodes on this machine, in a folder, by one user.

As root everything lives in a network namespace of its own, in which there is nothing but loopback.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from refsweep.cluster.programs import free_port

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "srun")
BIN = Path(sys.executable).parent
CONF = """
ClusterName=refsweep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[1]} CPUs={cpus}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.3 Port={ports[2]} CPUs={cpus}
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def until(true: Callable[[], object], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


class Slurm:
    """A controller and two nodes, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self.space = (
            f"refsweep-slurm-{os.getpid()}"
            if os.geteuid() == 0 and shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin")
            else None
        )
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "RAY_", "SBATCH_"))},
            "PATH": f"{root}/bin:{BIN}:/usr/sbin:{os.environ['PATH']}",
            "SLURM_CONF": f"{root}/slurm.conf",
            "HOME": f"{root}/home",
            "REFSWEEP_TMP": str(root),
        }
        self.daemons: list[subprocess.Popen[bytes]] = []

    def words(self, *command: str) -> list[str]:
        # not `ip netns exec`, which mounts a /sys without the control groups that slurmd looks for
        return ["nsenter", f"--net=/run/netns/{self.space}", *command] if self.space else list(command)

    def call(self, *command: str, **more: str) -> str:
        done = subprocess.run(
            self.words(*command), cwd=self.work, env={**self.env, **more}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def daemon(self, *command: str) -> None:
        with (self.root / f"{Path(command[0]).name}-{len(self.daemons)}.out").open("wb") as out:
            self.daemons.append(subprocess.Popen(self.words(*command), env=self.env, stdout=out, stderr=out))

    def start(self) -> None:
        for name in ("work", "state", "home", "bin"):
            (self.root / name).mkdir()
        if self.space:
            subprocess.run(["ip", "netns", "add", self.space], check=True)
            self.call("ip", "link", "set", "lo", "up")
            # with loopback addresses alone, the resolver knows none at all (AI_ADDRCONFIG)
            self.call("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
        ports = [free_port() for _ in range(3)]
        conf = CONF.format(
            root=self.root, user=getpass.getuser(), host=socket.gethostname(), ports=ports, cpus=os.cpu_count()
        )
        (self.root / "slurm.conf").write_text(conf)
        self.call("mungekey", "--create", f"--keyfile={self.root}/munge.key")
        own = [f"--{name}-file={self.root}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        self.daemon("munged", "--foreground", "--force", f"--socket={self.root}/munge.sock", *own)
        until((self.root / "munge.sock").exists, "munged listens", 10)
        self.daemon("slurmctld", "-D", "-i")
        for node in ("n1", "n2"):
            self.daemon("slurmd", "-D", "-N", node)
        until(lambda: self.call("sinfo", "-h", "-o", "%T %D") == "idle 2", "two idle nodes", 30)

    def end(self) -> None:
        """Ends the jobs, then what was started, by process id."""
        subprocess.run(self.words("scancel", "--full", "--signal=KILL", "--user", getpass.getuser()), env=self.env)
        subprocess.run(self.words("scancel", "--user", getpass.getuser()), env=self.env)
        try:
            until(lambda: not self.call("squeue", "-h"), "no job", 30)
        finally:
            for daemon in reversed(self.daemons):
                daemon.terminate()
            for daemon in self.daemons:
                daemon.wait(20)
            if self.space:
                left = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True).stdout
                for pid in left.split():
                    os.kill(int(pid), signal.SIGKILL)
                subprocess.run(["ip", "netns", "delete", self.space], check=True)

    def submit(self, *words: str, **more: str) -> str:
        # `--export=ALL`, the default, hands the environment on
        return self.call("sbatch", "--parsable", "--cpus-per-task=1", *words, **more)

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of it. A job that is queued again waits seconds here, not the two minutes SLURM has it wait
        (after one, since the old run's credential is revoked to the second)."""
        text = self.call("scontrol", "show", "job", number)
        found = dict(part.split("=", 1) for part in text.split() if "=" in part)
        if found["Reason"] == "BeginTime" and found["StartTime"] != "Unknown":
            wait_s = (datetime.fromisoformat(found["StartTime"]) - datetime.now()).total_seconds()
            if wait_s > 10:
                self.call("scontrol", "update", f"JobId={number}", "StartTime=now+3seconds")
        return found

    def wait(self, number: str, state: str, seconds: float = 60) -> None:
        try:
            until(lambda: self.job(number)["JobState"] == state, f"job {number} is {state}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.job(number)['JobState']}:\n{self.log(number)}") from None

    def log(self, number: str) -> str:
        path = self.work / f"refsweep-{number}.log"
        return path.read_text() if path.exists() else ""
