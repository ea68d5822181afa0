"""The programs of a cluster: each can be started, paused and ended with everything that it has started."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import guard

PAUSE_TIMEOUT_S = 10.0  # for a program's threads to stop


class MissingError(RuntimeError):
    """This machine lacks something that the cluster needs."""


class ClusterError(RuntimeError):
    """A part of the cluster did not do what it was started for."""


class Program:
    """A command and all processes that it starts, under a guard that ends them when this process ends.

    Args:
        name: for messages.
        command: program and arguments.
        log: file that its output is appended to.
        environment: its whole environment.
        user: another user to run as; only for root.
        last: a shell script that the guard runs once everything has ended, for whatever reason.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        user: str | None = None,
        last: str = "",
    ) -> None:
        self.name, self.command, self.log, self.environment = name, command, log, environment
        self.user, self.last = user, last
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the command and returns at once; `wait` waits until it works."""
        if self.running:
            raise ClusterError(f"{self.name} is already running")
        options = ["--user", self.user] if self.user else []
        options += ["--finally", self.last] if self.last else []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *options, "--", *map(str, self.command)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                cwd="/",
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the guard. SIGTERM to it kills everything that the program has started."""
        assert self._guard is not None, f"{self.name} was not started"
        return self._guard.pid

    @property
    def running(self) -> bool:
        """Whether the command is still running."""
        return self._guard is not None and self._guard.poll() is None

    def pids(self) -> list[int]:
        """Process ids of the command and of all its descendants."""
        return guard.descendants(self._guard.pid) if self._guard is not None and self.running else []

    def kill(self) -> None:
        """Sends SIGKILL to all of its processes; returns when none is left."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        self._guard = None

    def pause(self) -> None:
        """Stops all of its processes by SIGSTOP: connections stay open and nothing answers. On a busy machine a thread
        stops with a delay: this waits until each has."""
        until = time.monotonic() + PAUSE_TIMEOUT_S
        stopped: set[int] = set()
        while (fresh := set(self.pids()) - stopped) or not all(map(is_paused, stopped)):
            signal_all(fresh, signal.SIGSTOP)  # again and again, since one may have started another meanwhile
            stopped |= fresh
            if time.monotonic() > until:
                raise ClusterError(f"{self.name} did not stop within {PAUSE_TIMEOUT_S:g} s")
            time.sleep(0.005)

    def resume(self) -> None:
        """Continues what was paused."""
        signal_all(self.pids(), signal.SIGCONT)

    def wait(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Waits until the program answers.

        Raises:
            ClusterError: it has ended or does not answer in time; with the end of its log.
        """
        until = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise ClusterError(f"{self.name} has ended; {self.last_lines()}")
            if time.monotonic() > until:
                raise ClusterError(f"{self.name} does not answer after {timeout_s:.0f} s; {self.last_lines()}")
            time.sleep(0.05)

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for messages."""
        lines = self.log.read_text(errors="replace").splitlines()[-count:] if self.log.exists() else []
        return "\n".join([f"the end of {self.log}:", *lines])


def is_paused(pid: int) -> bool:
    """Whether every thread of a process is stopped, or the process is gone."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except OSError:
        return not Path(f"/proc/{pid}").exists()
    return all(state in "TtZX" for state in states)


def signal_all(pids: Sequence[int] | set[int], number: signal.Signals) -> None:
    """Sends a signal to processes, some of which may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port at this address on which nothing listens."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def listens(address: str, port: int) -> bool:
    """Whether something accepts TCP connections at this address and port."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex((address, port)) == 0


def fetch(url: str, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0) -> Any:
    """The open response to a GET request that no proxy sees. Raises OSError, also for HTTP errors."""
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  we made the address
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s)


def status(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """The HTTP status of a page; None when nothing answers."""
    try:
        with fetch(url, headers) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def user_exists(name: str) -> bool:
    """Whether this machine knows the user."""
    return name in {entry.pw_name for entry in pwd.getpwall()}


def write_secret(path: Path, content: str) -> None:
    """Writes a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
