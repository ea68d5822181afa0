"""What is started is ended: children that left the group, the session or their parent, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from refsweep.cluster import network, servers
from refsweep.cluster.guard import descendants
from refsweep.cluster.local import LocalCluster
from refsweep.cluster.network import Loopback, free_network, make_network
from refsweep.cluster.programs import ClusterError, MissingError, Program, free_port, listens

# One child in a session of its own, one that init would adopt, one that is plain.
RUNAWAYS = "setsid sleep 500 & (setsid sleep 500 & sleep 500 &) & sleep 500"


def until(true: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program("a shell", ["sh", "-c", RUNAWAYS], log=tmp_path / "log", environment=dict(os.environ))
    made.start()
    until(lambda: len(sleeping(made.pids())) == 4)
    yield made
    made.kill()


def sleeping(pids: list[int]) -> list[int]:
    return [p for p in pids if Path(f"/proc/{p}/comm").read_text().strip() == "sleep"]


def test_kill_ends_what_left_group_session_and_parent(program: Program):
    pids = program.pids()
    assert len({os.getsid(p) for p in pids}) == 3, "the runaways did run away"
    program.kill()
    assert not [p for p in pids if alive(p)]
    assert not program.running
    assert program.pids() == []


LISTENER = """
import socket, sys, threading, time
held = bytearray(300_000_000)
held[::4096] = bytes(len(held[::4096])).replace(b"\\0", b"\\1")
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
for _ in range(300):
    threading.Thread(target=time.sleep, args=(500,)).start()
"""


def test_a_killed_program_holds_no_port_however_many_threads_it_had(tmp_path: Path):
    port = free_port()
    command = [sys.executable, "-c", LISTENER, str(port)]
    program = Program("a listener", command, log=tmp_path / "log", environment=dict(os.environ))
    program.start()
    program.wait(lambda: listens("127.0.0.1", port) and threads(program) > 300, 60)
    program.kill()
    assert not listens("127.0.0.1", port)


def threads(program: Program) -> int:
    return sum(len(list(Path(f"/proc/{p}/task").iterdir())) for p in program.pids())


def test_a_command_that_ends_takes_its_orphans_with_it(tmp_path: Path):
    shell = "setsid sleep 500 & echo $!; exit 0"
    program = Program("a shell", ["sh", "-c", shell], log=tmp_path / "log", environment=dict(os.environ))
    program.start()
    until(lambda: not program.running)
    assert not alive(int((tmp_path / "log").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_ends_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals):
    code = f"""
import os, time
from pathlib import Path
from refsweep.cluster.programs import Program
Program("p", ["sh", "-c", {RUNAWAYS!r}], log=Path("log"), environment=dict(os.environ), last="touch cleaned").start()
time.sleep(500)
""".replace("touch cleaned", f"touch {tmp_path}/cleaned")
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    until(lambda: len(descendants(owner.pid)) >= 6)
    pids = descendants(owner.pid)
    owner.send_signal(number)
    owner.wait()
    until(lambda: not [p for p in pids if alive(p)])
    assert (tmp_path / "cleaned").exists()


def test_pause_stops_all_of_it_and_a_paused_program_can_be_killed(program: Program):
    program.pause()
    assert {state(p) for p in program.pids()} == {"T"}
    program.resume()
    until(lambda: {state(p) for p in program.pids()} == {"S"})
    program.pause()
    pids = program.pids()
    program.kill()
    assert not [p for p in pids if alive(p)]


def test_waiting_for_a_program_that_ended_shows_what_it_said(tmp_path: Path):
    command = ["sh", "-c", "echo no such thing >&2; exit 3"]
    program = Program("a shell", command, log=tmp_path / "log", environment=dict(os.environ))
    program.start()
    with pytest.raises(ClusterError, match=r"(?s)a shell has ended.*no such thing"):
        program.wait(lambda: False, 20)


def test_waiting_ends_in_time(program: Program):
    with pytest.raises(ClusterError, match="a shell does not answer after 0 s"):
        program.wait(lambda: False, 0.1)
    with pytest.raises(ClusterError, match="is already running"):
        program.start()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hosts": 0}, r"hosts must be in 1\.\.200, got 0"),
        ({"hosts": 201}, r"hosts must be in 1\.\.200, got 201"),
        ({"cpus_per_host": 0}, "cpus_per_host must be >= 1, got 0"),
        ({"head_cpus": -1}, "head_cpus must be >= 0, got -1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        LocalCluster(tmp_path, namespaces=False, **wrong)


def test_what_the_machine_lacks_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MissingError, match=r"200 hosts need 1\d\d\.\d GB of memory, and .* are free"):
        LocalCluster(tmp_path, hosts=200, namespaces=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(MissingError, match="rclone"):
        LocalCluster(tmp_path, hosts=1, namespaces=False)
    monkeypatch.setattr(servers, "Path", lambda _: tmp_path)
    with pytest.raises(MissingError, match="PostgreSQL is not installed"):
        servers.postgres_programs()
    assert list(tmp_path.iterdir()) == []


def test_without_rights_hosts_share_loopback_and_a_wish_for_namespaces_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert isinstance(make_network(3, None), Loopback)
    with pytest.raises(MissingError, match="need root"):
        make_network(3, True)
    with pytest.raises(MissingError, match="a partition needs"):
        make_network(3, False).cut(1, True)


def test_networks_in_use_are_not_taken(monkeypatch: pytest.MonkeyPatch):
    def ip(*words: str) -> str:
        if words[-1] == "addr":
            return '[{"addr_info": [{"local": "10.100.0.5", "prefixlen": 9}]}, {}]'  # 10.0 to 10.127
        return '[{"dst": "default"}, {"dst": "10.128.0.0/9"}, {"dst": "172.16.0.0/13"}, {"dst": "172.24.0.0/14"}]'

    monkeypatch.setattr(network, "ip", ip)
    for _ in range(20):
        assert 28 <= int(str(free_network()).split(".")[1]) <= 31


def test_free_ports_can_be_bound():
    assert free_port() != free_port()
