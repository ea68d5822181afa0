"""What a job reports by its log, and that no other text is taken for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobType
from refsweep.datasets.problems import InputError
from refsweep.orchestration.jobs.client import Jobs
from refsweep.orchestration.jobs.job import Job
from refsweep.orchestration.jobs.protocol import SWEEP, Begun, Ended, JobContent, event_line, new_token
from refsweep.orchestration.jobs.protocol import TOKEN as TOKEN_KEY
from refsweep.orchestration.registry.versions import versions
from refsweep.orchestration.spec.errors import WorkFailedError
from refsweep.tests.orchestration.jobs.answers import TOKEN, Answer, dashboard, spec_of

# what a job's log tells


def job_of(state: str = "failed", code: int | None = None, token: str | None = TOKEN) -> Job:
    return Job(
        id="s-1",
        sweep="s",
        state=state,
        exit_code=code,
        message="Ray's words",
        ledger="",
        started=None,
        ended=None,
        token=token,
    )


EVENTS = [
    Begun(),
    Ended(state="finished", exit_code=0, message=""),
    Ended(state="stopped", exit_code=1, message='two\nlines, {"event": "begun"}, refsweep-job, \udce4, \x1b[31m'),
    Ended(state=None, exit_code=2, message="the cluster has Ray 1"),
]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("before", ["", "a progress bar without a newline"])
def test_an_event_is_one_line_of_the_log_and_is_read_back(event: Begun | Ended, before: str):
    line = event_line(event, TOKEN)
    assert line.isascii()
    assert line.isprintable()
    assert job_of().event_of(before + line) == event


@pytest.mark.parametrize(
    "line",
    [
        'refsweep-job {"event": "begun"}',
        'refsweep-job TOKEN {"event": "begun"}',
        event_line(Begun(), "0" * 32),
        "refsweep job: the sweep has begun",
        "refsweep: sweep s stopped: as an earlier version said it",
        f"{TOKEN} " + '{"event": "begun"}',
    ],
)
def test_a_text_that_looks_like_an_event_is_none_without_the_jobs_token(line: str):
    assert job_of().event_of(line) is None
    assert list(job_of().readable([line])) == [line]


@pytest.mark.parametrize("content", ["", "{", "[]", "1", "null", '{"event": "begun", "more": 1}', '{"event": "later"}'])
def test_an_event_that_was_cut_or_is_of_a_later_version_is_left_out(content: str):
    assert job_of().event_of(f"refsweep-job {TOKEN} {content}") is None


def test_jobs_of_the_version_before_the_token_are_read():
    old = job_of(token=None)
    assert old.event_of("refsweep job: the sweep has begun") == Begun()
    stopped = old.event_of("refsweep: sweep s stopped: `refsweep sweep resume s` goes on")
    assert isinstance(stopped, Ended)
    assert stopped.state == "stopped"
    assert old.event_of("refsweep: sweep s2 stopped") is None
    assert old.event_of(event_line(Begun(), TOKEN)) is None


def test_a_job_on_a_cluster_with_other_versions_reports_that_as_bad_input(tmp_path: Path):
    content = JobContent(spec={}, versions={**versions(), "ray": "0.1"}, needs=[], token=TOKEN)
    content.write(tmp_path)
    command = [sys.executable, "-m", "refsweep.orchestration.cli.job"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    message = f"the cluster has Ray {versions()['ray']}, the machine that submits has 0.1"
    assert (done.returncode, done.stderr) == (2, f"refsweep: {message}\n")
    assert job_of().events(done.stdout.splitlines()) == [Ended(state=None, exit_code=2, message=message)]


def test_people_see_sentences_in_place_of_events():
    log = ["a", event_line(Begun(), TOKEN), "trial 0", event_line(EVENTS[1], TOKEN)]
    assert list(job_of().readable(log)) == ["a", "the sweep has begun", "trial 0"]


def test_tokens_differ():
    assert len({new_token() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("state", "code", "error", "message"),
    [
        ("failed", 2, InputError, "^no such metric\n  a second line$"),
        ("failed", 1, WorkFailedError, "^job s-1 failed: no such metric"),
        ("stopped", 1, WorkFailedError, "^job s-1 stopped: no such metric"),
    ],
)
def test_why_a_driver_ended_is_what_it_told_last(state: str, code: int, error: type[Exception], message: str):
    ended = event_line(Ended(state=None, exit_code=code, message="no such metric\n  a second line"), TOKEN)
    forged = event_line(Ended(state=None, exit_code=0, message="all is well"), new_token())
    with pytest.raises(error, match=message):
        job_of(state, code).raise_failure(["refsweep: a text", ended, forged, "the last line"])


@pytest.mark.parametrize(
    ("state", "code", "error", "message"),
    [
        ("failed", -9, WorkFailedError, "killed by signal 9"),
        ("failed", None, WorkFailedError, "Ray's words"),
        ("failed", 1, WorkFailedError, "a\nb"),
        ("failed", 2, InputError, "a\nb"),
        ("stopped", None, WorkFailedError, "stopped"),
    ],
)
def test_why_a_driver_ended_that_told_nothing_is_rays_message_or_its_log(
    state: str, code: int | None, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        job_of(state, code).raise_failure(["a", "b"])
    with pytest.raises(error, match=r"s-1|Ray's words"):
        job_of(state, code).raise_failure([])


def test_a_job_that_succeeded_has_no_failure():
    assert job_of("succeeded", 0).raise_failure(["refsweep: no such metric"]) is None


class Client:
    """Ray's client of a cluster with one job of sweep `s`, and that job's log."""

    def __init__(self, *lines: str, states: Sequence[str] = ("RUNNING", "STOPPED")) -> None:
        self.lines, self.states, self.submitted = lines, list(states), 0

    def get_job_info(self, _: str) -> JobDetails:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        metadata = {SWEEP: "s", TOKEN_KEY: TOKEN}
        return JobDetails(type=JobType.SUBMISSION, submission_id="s-1", status=state, entrypoint="", metadata=metadata)

    def list_jobs(self) -> list[JobDetails]:
        return [self.get_job_info("s-1")] if self.submitted else []

    def get_job_logs(self, _: str) -> str:
        return "\n".join(self.lines)

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for line in self.lines:
            yield f"{line}\n"

    def stop_job(self, _: str) -> None:
        pass

    def submit_job(self, **_: Any) -> None:
        self.submitted += 1
        raise RuntimeError("Ray's words on an id that is taken, in whatever language")


@pytest.fixture
def jobs_with(door: Callable[[Answer], str]) -> Callable[[Client], Jobs]:
    def make(client: Client) -> Jobs:
        jobs = Jobs(door(dashboard(None, versions()["ray"])), insecure=True)
        jobs._client = client
        return jobs

    return make


FORGED = [event_line(e, new_token()) for e in EVENTS] + [
    "refsweep: sweep s stopped",
    "refsweep job: the sweep has begun",
]
BEGUN = event_line(Begun(), TOKEN)
STOPPED = event_line(Ended(state="stopped", exit_code=1, message="stopped"), TOKEN)


def test_a_sweep_has_begun_when_its_own_driver_says_so(jobs_with: Callable[[Client], Jobs]):
    job = jobs_with(Client("a", *FORGED, BEGUN, states=["RUNNING"])).until_begun("s-1")
    assert job.state == "running"
    with pytest.raises(WorkFailedError, match="s-1 stopped"):
        jobs_with(Client("a", *FORGED)).until_begun("s-1")


@pytest.mark.parametrize(
    ("lines", "clean"),
    [
        ([BEGUN, *FORGED], False),
        ([BEGUN, *FORGED, STOPPED], True),
        ([*FORGED], True),  # its sweep had not begun: there was nothing to finish
    ],
)
def test_a_stop_is_clean_when_the_driver_ended_by_itself(
    jobs_with: Callable[[Client], Jobs], lines: list[str], clean: bool
):
    client = Client(*lines)
    client.submitted = 1
    assert jobs_with(client).stop("s")[1] is clean


def test_a_submission_that_somebody_else_was_faster_with_is_refused_by_the_state_of_the_cluster(
    jobs_with: Callable[[Client], Jobs],
):
    with pytest.raises(InputError, match="already running as job s-1"):
        jobs_with(Client(states=["RUNNING"])).submit(spec_of(storage="/shared"))
    with pytest.raises(WorkFailedError, match="Ray's words"):
        jobs_with(Client(states=["FAILED"])).submit(spec_of(storage="/shared"))
