"""Two sweeps of one name on one cluster: told apart by ledger and storage."""

from __future__ import annotations

from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.jobs.client import Jobs
from refsweep.orchestration.jobs.job import Job
from refsweep.orchestration.jobs.protocol import LEDGER, STORAGE
from refsweep.orchestration.registry.versions import versions
from refsweep.orchestration.spec.read import settle
from refsweep.tests.orchestration.jobs.answers import TOKEN, spec_of


def job(number: int, state: str, ledger: str, storage: str) -> Job:
    return Job(
        id=f"s-{number}",
        sweep="s",
        state=state,
        exit_code=None,
        message="",
        ledger=ledger,
        storage=storage,
        started=f"{number}",
        ended=None,
        token=TOKEN,
    )


class Ray:
    """What Ray's client is asked."""

    def __init__(self) -> None:
        self.submitted: dict[str, Any] = {}
        self.stopped: list[str] = []

    def submit_job(self, **submission: Any) -> None:
        self.submitted = submission

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


@pytest.fixture
def ray() -> Ray:
    return Ray()


def jobs_of(known: list[Job], ray: Ray, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    jobs = Jobs.__new__(Jobs)
    jobs.address, jobs.ray_version = "http://head:8265", versions()["ray"]
    jobs._client = ray
    monkeypatch.setattr(jobs, "all", lambda: known)
    monkeypatch.setattr(jobs, "get", lambda _: job(9, "stopped", "", ""))
    monkeypatch.setattr(jobs, "log", lambda _: [])
    monkeypatch.setattr("refsweep.orchestration.jobs.client.runtime_env", lambda *_, **__: {})
    return jobs


SPEC = spec_of(storage="/mine", ledger="postgresql://me@db/sweeps")
MINE, THEIRS = ("postgresql://db:5432/sweeps", "/mine"), ("postgresql://db/theirs", "/theirs")


@pytest.mark.parametrize(
    ("places", "why"),
    [
        (MINE, "already running as job s-1"),
        ((MINE[0], "/elsewhere"), "already running as job s-1"),
        ((MINE[0], ""), "already running as job s-1"),  # of a version that did not say where
        ((THEIRS[0], MINE[1]), r"job s-1 runs another sweep 's' in the same storage \(ledger postgresql://db/theirs"),
        (THEIRS, None),
    ],
)
def test_a_job_is_in_the_way_only_where_places_meet(
    places: tuple[str, str], why: str | None, ray: Ray, monkeypatch: pytest.MonkeyPatch
):
    jobs = jobs_of([job(1, "running", *places)], ray, monkeypatch)
    if why is not None:
        with pytest.raises(InputError, match=why):
            jobs.submit(SPEC)
        assert ray.submitted == {}
        return
    jobs.submit(SPEC)
    assert ray.submitted["submission_id"] == "s-2", "ids are of the cluster"
    metadata = ray.submitted["metadata"]
    assert (metadata[LEDGER], metadata[STORAGE]) == (settle(SPEC).ledger, "/mine")


def test_the_sweep_that_is_meant_is_stopped(ray: Ray, monkeypatch: pytest.MonkeyPatch):
    jobs = jobs_of([job(1, "running", *MINE), job(2, "running", *THEIRS)], ray, monkeypatch)
    with pytest.raises(InputError, match=r"several sweeps 's' run, say which .*s-1: ledger .*; s-2: ledger"):
        jobs.stop("s")
    with pytest.raises(InputError, match=r"of another sweep of that name: s-1: ledger"):
        jobs.stop("s", ledger="postgresql://db/a-third")
    assert ray.stopped == []
    jobs.stop("s", ledger=MINE[0])
    jobs.stop("s", storage="/theirs")
    assert ray.stopped == ["s-1", "s-2"]


def test_a_job_that_is_over_is_not_taken_for_the_one_that_runs(ray: Ray, monkeypatch: pytest.MonkeyPatch):
    jobs = jobs_of([job(1, "running", *MINE), job(2, "succeeded", *THEIRS)], ray, monkeypatch)
    jobs.stop("s")
    assert ray.stopped == ["s-1"]
