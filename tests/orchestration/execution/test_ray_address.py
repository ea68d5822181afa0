"""An environment that Ray can't be used in is said within seconds, before anything starts or is written; and what a
killed process left of Ray is removed."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.execution import ray_address, ray_start
from refsweep.orchestration.execution.ray_start import ray_in_background
from refsweep.orchestration.execution.scratch import own_folder, remove_abandoned


def refused(monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(InputError) as error, ray_in_background("toy"):
        raise AssertionError("nothing may begin")
    assert time.monotonic() - began < 5
    return str(error.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head:8265", "must be local, auto or HOST:PORT, got http://: a dashboard is named by"),
        ("ray://head:10001", "must be local, auto or HOST:PORT, got ray://: a sweep's driver runs inside"),
        ("head", "must be local, auto or HOST:PORT, got 'head'"),
        ("head:", "must be local, auto or HOST:PORT"),
        ("head:99999", "must be local, auto or HOST:PORT"),
        ("head:6379/x", "must be local, auto or HOST:PORT"),
        ("no such host:6379", "must be local, auto or HOST:PORT"),
        ("127.0.0.1:1", "no Ray at RAY_ADDRESS=127.0.0.1:1: Connection refused; start the cluster, or unset"),
        (f"{'x' * 300}:6379", "no Ray at RAY_ADDRESS="),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_begins(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    assert message in refused(monkeypatch, address)


@pytest.fixture
def server() -> Iterator[Callable[[bytes], str]]:
    """Starts a server on loopback that answers every client with the same bytes; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def starts(answer: bytes) -> str:
            def serve() -> None:
                client, _ = listening.accept()
                client.recv(4096)
                client.sendall(answer)
                time.sleep(1.0)
                client.close()

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{listening.getsockname()[1]}"

        yield starts


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK redis\r\n"])
def test_a_server_that_is_no_ray_or_says_nothing_is_refused(
    answer: bytes, server: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray_address, "ANSWER_S", 0.3)
    assert "what listens there does not answer as Ray does" in refused(monkeypatch, server(answer))


def test_a_server_that_speaks_as_grpc_does_is_taken(server: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch):
    address = server(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_address.ray_address() == address


@pytest.mark.parametrize(("given", "address"), [(None, "local"), ("", "local"), (" ", "local"), ("auto", "auto")])
def test_no_address_is_this_machine(given: str | None, address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if given is not None:
        monkeypatch.setenv("RAY_ADDRESS", given)
    assert ray_address.ray_address() == address


def test_a_cluster_that_never_answers_is_left_at_once(monkeypatch: pytest.MonkeyPatch):
    never = threading.Event()
    monkeypatch.setattr(ray_start, "ray_address", lambda: "h:1")
    monkeypatch.setattr(ray_start, "_join", lambda _: never.wait())
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ray_in_background("toy"):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2
    never.set()


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            "Failed: AuthenticationError: RPC error: InvalidAuthToken: missing",
            "the cluster rejects this token: set RAY_AU",
        ),
        ("Failed to connect to GCS", "no Ray at RAY_ADDRESS=h:1: Failed to connect to Ray cluster"),
    ],
)
def test_a_cluster_that_refuses_is_bad_input(cause: str, message: str, monkeypatch: pytest.MonkeyPatch):
    def refuses(_: str) -> None:
        try:
            raise RuntimeError(cause)
        except RuntimeError as error:
            raise ConnectionError("Failed to connect to Ray cluster at h:1") from error

    monkeypatch.setattr(ray_start, "ray_address", lambda: "h:1")
    monkeypatch.setattr(ray_start, "_init", refuses)
    with ray_in_background("toy") as connected, pytest.raises(InputError, match=message):
        connected()


def test_a_temporary_folder_must_leave_room_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    assert ray_address.ray_temp() == "/tmp"  # noqa: S108
    for wrong in (str(long), "relative", "/no-such-folder"):
        monkeypatch.setenv("RAY_TMPDIR", wrong)
        with pytest.raises(InputError, match="RAY_TMPDIR must be a folder that can be written, with a path of at most"):
            ray_address.ray_temp()
    assert ray_address.TEMP_MAX >= 15


@pytest.mark.parametrize(
    ("environment", "made"), [({}, True), ({"RAY_AUTH_MODE": "disabled"}, False), ({"RAY_AUTH_TOKEN": "x"}, False)]
)
def test_the_token_is_for_this_user_alone(
    environment: dict[str, str], made: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    ray_address.make_token()
    path = tmp_path / ".ray" / "auth_token"
    assert path.exists() is made
    if made:
        token = path.read_text()
        assert len(token) == 64
        path.chmod(0o644)  # as an earlier Ray left it
        ray_address.make_token()
        assert path.read_text() == token
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_home_the_token_is_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    ray_address.make_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


KILLED = """
import os, signal, sys
from refsweep.orchestration.execution.scratch import own_folder
with own_folder("x-", sys.argv[1]) as folder:
    (folder / "session").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_goes_at_the_end_and_a_killed_process_s_at_the_next_start(tmp_path: Path):
    with own_folder("x-", str(tmp_path)) as alive:
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        [left] = [path for path in tmp_path.iterdir() if path != alive]
        for name in ("x-being-made", "y-of-another"):
            (tmp_path / name).mkdir()
        os.symlink(alive, tmp_path / "x-link")
        assert stat.S_IMODE(alive.stat().st_mode) == 0o700
        with own_folder("x-", str(tmp_path)) as second:
            assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
                [alive.name, second.name, "x-being-made", "y-of-another", "x-link"]
            ), "that of a process that is gone is removed, and no other"
        assert not left.exists()
        os.utime(tmp_path / "x-being-made", (0, 0))
        assert remove_abandoned("x-", str(tmp_path)) == [tmp_path / "x-being-made"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-link", "y-of-another"]


def test_a_folder_is_kept_while_any_process_holds_its_lock(tmp_path: Path):
    (tmp_path / "x-a").mkdir()
    with open(tmp_path / "x-a" / "owner", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_abandoned("x-", str(tmp_path)) == []
    assert remove_abandoned("x-", str(tmp_path)) == [tmp_path / "x-a"]
