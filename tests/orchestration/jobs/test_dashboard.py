"""Which clusters are used: addresses, tokens, versions, sweeps that run already."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.jobs.client import Jobs
from refsweep.orchestration.jobs.dashboard import connect
from refsweep.orchestration.registry.versions import versions
from refsweep.tests.orchestration.jobs.answers import Answer, dashboard, spec_of


def test_a_cluster_without_token_is_refused_unless_told_and_gets_no_token_of_ours(
    door: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
):
    authorizations: list[str | None] = []
    url = door(dashboard(None, authorizations=authorizations))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with pytest.raises(InputError, match=r"has no token authentication.*--insecure"):
        connect(url)
    assert Jobs(url, insecure=True).all() == []
    assert set(authorizations) == {None}


def test_the_token_is_taken_from_where_ray_takes_it(
    door: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    url = door(dashboard("right"))
    with pytest.raises(InputError, match="requires a token: set RAY_AUTH_TOKEN"):
        connect(url)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH must be a readable file"):
        connect(url)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert Jobs(url).all() == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-token")
    with pytest.raises(InputError, match="rejects this token") as refused:
        connect(url)
    assert "wrong-token" not in str(refused.value)


def test_a_ray_address_in_the_environment_does_not_replace_the_cluster(
    door: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert Jobs(door(dashboard(None)), insecure=True).all() == []


@pytest.mark.parametrize(("code", "text"), [(200, "<html>"), (404, "no"), (302, ""), (200, "[1]"), (500, "{}")])
def test_what_is_no_dashboard_is_told(door: Callable[[Answer], str], code: int, text: str):
    with pytest.raises(InputError, match=f"must be a Ray dashboard, got http.*{code}"):
        connect(door(lambda *_: (code, text)))


@pytest.mark.parametrize(
    "address", ["head:8265", "ftp://head", "http://", "http://head:x", "ray://head:10001", "auto", "http://h?a=b"]
)
def test_what_is_no_address_is_told(address: str):
    with pytest.raises(InputError, match="--cluster must be the address of a Ray dashboard"):
        connect(address)


@pytest.mark.parametrize("address", ["http://me:hunter2@head:8265", "me:hunter2@head:8265", "//me:hunter2@head"])
def test_an_address_with_a_password_is_refused_without_repeating_it(address: str):
    with pytest.raises(InputError, match="must not contain a user or a password") as refused:
        connect(address)
    assert "hunter2" not in str(refused.value)


def test_a_cluster_that_is_not_there_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as listener:  # bound, and nobody listens
        listener.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(InputError, match=r"no cluster answers at .*refused"):
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - began < 5
    with pytest.raises(InputError, match=r"no cluster answers at http://no-such-host\.invalid"):
        connect("http://no-such-host.invalid:8265")


def test_a_cluster_of_another_ray_is_refused_before_anything_is_sent(door: Callable[[Answer], str]):
    asked: list[str] = []
    other = dashboard(None, ray="2.9.3")

    def answer(path: str, authorization: str | None) -> tuple[int, str]:
        asked.append(path)
        return other(path, authorization)

    jobs = Jobs(door(answer), insecure=True)
    with pytest.raises(InputError, match=r"the cluster has Ray 2\.9\.3, the machine that submits has "):
        jobs.submit(spec_of(storage="/shared"))
    assert set(asked) == {"/api/version"}


def listed(states: Sequence[str]) -> str:
    common = {"type": "SUBMISSION", "entrypoint": "x", "metadata": {"refsweep.sweep": "s"}, "start_time": 1}
    return json.dumps([{**common, "submission_id": f"s-{n}", "status": s} for n, s in enumerate(states, 1)])


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_sweep_that_runs_is_not_submitted_again(door: Callable[[Answer], str], state: str):
    ray = versions()["ray"]

    def answer(path: str, authorization: str | None) -> tuple[int, str]:
        return dashboard(None, ray)(path, authorization) if "version" in path else (200, listed(["FAILED", state]))

    jobs = Jobs(door(answer), insecure=True)
    with pytest.raises(InputError, match="sweep 's' is already running as job s-2"):
        jobs.submit(spec_of(storage="/shared"))
    with pytest.raises(InputError, match=r"no job of sweep 't' on .*; there are: s"):
        jobs.of("t")
    assert [job.id for job in jobs.of("s")] == ["s-1", "s-2"]
