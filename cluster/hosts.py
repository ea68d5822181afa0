"""A Ray cluster of several hosts on one machine. Each host can be killed, partitioned and started again."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .network import MAX_HOSTS, make_network
from .programs import ClusterError, MissingError, Program, fetch, listens, signal_all, write_secret

HEAD = 0
START_TIMEOUT_S = 180.0
OBJECT_STORE_BYTES = 100 * 1024**2
TEMP_MAX = 24  # Ray puts sockets some 75 characters below its temp folder, and a socket's path has 107 at most

# Ray notices a killed node after some 5 s and a silent one after some 20 s; with its own settings it takes 30 to 60 s.
# Registering takes longer than Ray allows by default when several hosts start on two cores.
RAY_SETTINGS = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",  # hosts that have lost their head end
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_worker_register_timeout_seconds": "180",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class RayCluster:
    """Several hosts (0 is the head) with token authentication; a context manager.

    Args:
        folder: for logs, the token and Ray's sessions.
        hosts: number of hosts, including the head.
        cpus_per_host: CPUs that Ray counts on each host except the head.
        head_cpus: CPUs that Ray counts on the head; 0 keeps it free for drivers.
        namespaces: whether hosts are network namespaces; None uses them where they are possible.

    Raises:
        ValueError: a number is out of range.
        MissingError: this machine lacks something; nothing has been started.
    """

    def __init__(
        self,
        folder: Path,
        hosts: int = 3,
        cpus_per_host: int = 1,
        *,
        head_cpus: int = 0,
        namespaces: bool | None = None,
    ) -> None:
        if not 1 <= hosts <= MAX_HOSTS:
            raise ValueError(f"hosts must be in 1..{MAX_HOSTS}, got {hosts}")
        if cpus_per_host < 1:
            raise ValueError(f"cpus_per_host must be >= 1, got {cpus_per_host}")
        if head_cpus < 0:
            raise ValueError(f"head_cpus must be >= 0, got {head_cpus}")
        if sys.platform != "linux":
            raise MissingError("a local cluster needs Linux")
        self.folder, self.hosts = folder.absolute(), hosts
        self.token_file = self.folder / "token"
        self._cpus = [head_cpus] + [cpus_per_host] * (hosts - 1)
        self._network = make_network(hosts, namespaces)
        self._rays: dict[int, Program] = {}
        self._scratch: Path | None = None

    @property
    def namespaces(self) -> bool:
        """Whether each host has its own network, so that it can be partitioned."""
        return bool(self._network.enter(HEAD))

    @property
    def address(self) -> str:
        """ip:port of the head."""
        return f"{self._network.address(HEAD)}:{self._head_port}"

    @property
    def dashboard(self) -> str:
        """URL of Ray's dashboard, to which jobs are submitted."""
        return f"http://{self._network.address(HEAD)}:{self._dashboard_port}"

    def environment(self) -> dict[str, str]:
        """Environment variables with which a client on this machine reaches the cluster; with secrets."""
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        ours = ",".join({self._network.outside, *(self._network.address(i) for i in range(self.hosts))})
        for name in ("no_proxy", "NO_PROXY"):
            variables[name] = ",".join(part for part in (os.environ.get(name, ""), ours) if part)
        return variables

    def start(self) -> None:
        """Starts everything. If that fails, whatever was started is ended again."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._scratch = Path(tempfile.mkdtemp(prefix="rs", dir=short_temp()))
            self._scratch.chmod(0o711)  # the user `postgres` goes through it
            self._network.start(self.folder, self._scratch)
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        write_secret(self.token_file, secrets.token_hex(32))
        self._head_port, self._dashboard_port = self._network.port(6379), self._network.port(8265)
        for host in range(self.hosts):
            self._launch(host)
            if host == HEAD:
                self._wait_for_head()
        self.wait_for_nodes(self.hosts, START_TIMEOUT_S)

    def close(self) -> None:
        """Ends everything; may be called twice."""
        for ray in self._rays.values():
            ray.kill()
        self._network.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def host_environment(self, host: int) -> dict[str, str]:
        """Environment of processes on a host: that of this process, and how to reach the cluster and its servers."""
        whole = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {**whole, **RAY_SETTINGS, **self.environment(), "PATH": programs, "RAY_ADDRESS": self.address}

    def kill_host(self, host: int) -> None:
        """Sends SIGKILL to every process of a host."""
        ray = self._ray(host)
        for _ in range(3):  # what is on the host by its network only (`run`) may be starting something
            signal_all(self._network.pids(host), signal.SIGKILL)
        ray.kill()

    def start_host(self, host: int) -> None:
        """Starts a host that was killed. The head starts empty, which to Ray is another cluster.

        Other hosts have to be started again after a new head: they end by themselves, or are killed first.
        """
        self._ray(host).kill()
        self._launch(host)
        if host == HEAD:
            self._wait_for_head()

    def restart(self) -> None:
        """Kills every host and starts an empty cluster at the same address. Servers keep running."""
        for host in range(self.hosts):
            self.kill_host(host)
        for host in range(self.hosts):
            self.start_host(host)
        self.wait_for_nodes(self.hosts, START_TIMEOUT_S)

    def partition(self, host: int) -> None:
        """Cuts a host off from everything else: packets are dropped silently. Raises MissingError."""
        self._ray(host)
        self._network.cut(host, True)

    def heal(self, host: int) -> None:
        """Undoes `partition`. A host that Ray gave up meanwhile ends itself: `start_host` starts it again."""
        self._ray(host)
        self._network.cut(host, False)

    def pids(self, host: int) -> list[int]:
        """Process ids of everything on a host."""
        return sorted({*self._ray(host).pids(), *self._network.pids(host)})

    def alive(self, host: int) -> bool:
        """Whether Ray runs on a host."""
        return self._ray(host).running

    def run(
        self, host: int, command: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """`subprocess.run` on a host, with text and captured output unless told otherwise."""
        whole = {**self.host_environment(host), **(environment or {})}
        options = {"capture_output": True, "text": True, "timeout": 300, "check": False, **options}
        return subprocess.run([*self._network.enter(host), *command], env=whole, **options)

    def host_temp(self, host: int) -> Path:
        """Ray's temporary folder on a host: sessions, logs, sockets."""
        assert self._scratch is not None
        return self._scratch / str(host)

    def _ray(self, host: int) -> Program:
        if host not in self._rays:
            raise ValueError(f"host must be in 0..{self.hosts - 1}, got {host}")
        return self._rays[host]

    def _launch(self, host: int) -> None:
        real = self.folder / "hosts" / str(host)  # by a link, for a short path whose logs stay
        shutil.rmtree(real, ignore_errors=True)
        real.mkdir(parents=True, exist_ok=True)  # a mount point stays
        if not self.host_temp(host).is_symlink():
            self.host_temp(host).symlink_to(real)
        words = [*self._network.enter(host), sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        words += ["--node-ip-address", self._network.address(host), "--node-name", f"host-{host}"]
        words += ["--temp-dir", str(self.host_temp(host)), "--num-cpus", str(self._cpus[host]), "--num-gpus", "0"]
        words += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--disable-usage-stats"]
        if host == HEAD:
            words += ["--head", "--port", str(self._head_port), "--include-dashboard", "true"]
            words += ["--dashboard-host", self._network.address(HEAD), "--dashboard-port", str(self._dashboard_port)]
            words += ["--ray-client-server-port", str(self._network.port(10001))]
        else:
            words += ["--address", self.address]
        if not self.namespaces:  # hosts that share an address share its ports
            words += ["--min-worker-port", "0", "--max-worker-port", "0"]
            for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"):
                words += [f"--{name}", str(self._network.port(0))]
        log, environment = self.folder / "logs" / f"host-{host}.log", self.host_environment(host)
        environment.pop("RAY_ADDRESS")  # `ray start` would take it for its own
        self._rays[host] = Program(f"Ray on host {host}", words, log=log, environment=environment)
        self._rays[host].start()
        self.lifeline(host).write_text(f"{self._rays[host].pid}\n")

    def lifeline(self, host: int) -> Path:
        """A file with a process id. SIGTERM to that process kills the whole host."""
        return self.folder / "hosts" / f"{host}.pid"

    def _wait_for_head(self) -> None:
        address = self._network.address(HEAD)
        ready = [(address, self._head_port), (address, self._dashboard_port)]
        self._ray(HEAD).wait(lambda: all(listens(*place) for place in ready), START_TIMEOUT_S)

    def mend(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Undoes every `kill_host` and `partition`, also of the head. Raises ClusterError after `timeout_s`."""
        until = time.monotonic() + timeout_s
        for host in self._rays if self.namespaces else ():
            self.heal(host)
        while True:
            for host, ray in self._rays.items():
                if not ray.running:
                    self.start_host(host)
            try:
                return self.wait_for_nodes(self.hosts, 1.0)  # a host that Ray gave up may end itself only now
            except ClusterError:
                if time.monotonic() > until:
                    raise

    def nodes(self) -> list[dict[str, Any]]:
        """Every node that Ray knows of, including dead ones. Raises OSError when the head does not answer."""
        token = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        with fetch(f"{self.dashboard}/api/v0/nodes?limit=1000&detail=1", token, timeout_s=10) as answer:
            nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return nodes

    def wait_for_nodes(self, count: int, timeout_s: float = 60.0) -> None:
        """Waits until Ray counts so many living nodes.

        Raises:
            ClusterError: after `timeout_s`, with the living nodes and the last log lines of the missing ones.
        """
        until, alive = time.monotonic() + timeout_s, ["nothing"]
        while True:
            with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
                alive = sorted(n["node_name"] for n in self.nodes() if n["state"] == "ALIVE")
                if len(alive) == count:
                    return
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        ended = [ray.last_lines() for host, ray in self._rays.items() if f"host-{host}" not in alive]
        raise ClusterError("\n".join([f"expected {count} living nodes, got {', '.join(alive) or 'none'}", *ended]))


def short_temp() -> str:
    """A temporary folder with a path short enough for Ray's sockets."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= TEMP_MAX - len("/rsxxxxxxxx/000") else "/tmp"  # noqa: S108  mkdtemp makes it ours
