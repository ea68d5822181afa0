"""Sweeps as jobs of a Ray cluster: submit, follow, list, stop.

A job is the sweep's driver, on the head. It needs nothing of the machine that submitted it. Nobody but Ray's record of
jobs says which sweep a job runs: its metadata names the sweep and the ledger, and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from ...datasets.problems import InputError
from ..cli.job import BEGUN
from ..cli.output import WorkFailedError
from ..registry.versions import mismatches, versions
from ..spec.read import settle
from ..spec.schema import SweepSpec
from .dashboard import connect
from .package import ENTRYPOINT, STOP_WAIT_S, check_places, runtime_env

SWEEP, LEDGER, CODE = "refsweep.sweep", "refsweep.ledger", "refsweep.code"  # keys of a job's metadata
AWAY_S = 60.0  # how long a log is followed over a dashboard that does not answer
WHO_RESTARTS = (
    "If the driver or the head is lost, Ray does not start the job again: submit the same spec again, and the sweep "
    "goes on where it was. A Kubernetes RayJob with backoffLimit, or sbatch --requeue, does so by itself."
)


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep's driver on a cluster."""

    id: str  # <sweep>-<n>
    sweep: str
    state: str  # pending, running, stopped, succeeded, failed
    exit_code: int | None  # of the driver
    message: str
    ledger: str
    started: str | None  # UTC
    ended: str | None

    @property
    def ended_already(self) -> bool:
        """Whether it will do nothing more."""
        return self.state not in ("pending", "running")

    @property
    def number(self) -> int:
        """n of `<sweep>-<n>`."""
        return number_of(self.id, self.sweep) or 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "job": self.id,
            "sweep": self.sweep,
            "state": self.state,
            "exit_code": self.exit_code,
            "started": self.started,
            "ended": self.ended,
        }


def number_of(job: str, sweep: str) -> int | None:
    """n of `<sweep>-<n>`; None for another sweep's job."""
    found = re.fullmatch(rf"{re.escape(sweep)}-(\d+)", job)
    return int(found[1]) if found else None


def next_id(sweep: str, ids: Iterable[str]) -> str:
    """`<sweep>-<n>`, n one more than the highest the cluster knows."""
    return f"{sweep}-{1 + max((number_of(i, sweep) or 0 for i in ids), default=0)}"


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        """Raises InputError for a cluster that can't be used."""
        self.address = address.rstrip("/")
        with self._asking():
            self._client, self.ray_version = connect(address, insecure=insecure)

    def all(self) -> list[Job]:
        """Every job that runs a sweep, oldest first."""
        with self._asking():
            found = self._client.list_jobs()
        jobs = [_job(details) for details in found if SWEEP in (details.metadata or {}) and details.submission_id]
        return sorted(jobs, key=lambda job: (job.started or "", job.sweep, job.number))

    def of(self, sweep: str) -> list[Job]:
        """The jobs of a sweep, oldest first. Raises InputError where there is none."""
        everyone = self.all()
        found = sorted((job for job in everyone if job.sweep == sweep), key=lambda job: job.number)
        if not found:
            names = ", ".join(sorted({job.sweep for job in everyone})) or "none"
            raise InputError(f"no job of sweep {sweep!r} on {self.address}; there are: {names}")
        return found

    def get(self, job: str) -> Job:
        """One job as it stands."""
        with self._asking():
            return _job(self._client.get_job_info(job))

    def submit(
        self,
        spec: SweepSpec,
        *,
        needs: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        install: bool = False,
    ) -> Job:
        """Submits a sweep's driver. Raises InputError for a spec or a cluster that can't be, and while one runs."""
        check_places(spec)
        spec = settle(spec)
        wrong = mismatches(versions(), {"ray": self.ray_version}, "the cluster")
        if wrong:
            raise InputError("\n".join(wrong))
        taken = self._refuse_second(spec)
        job = next_id(spec.name, taken)
        metadata = {SWEEP: spec.name, LEDGER: spec.ledger_url, CODE: versions()["refsweep"]}
        with tempfile.TemporaryDirectory(prefix="refsweep-job-") as folder:
            env = runtime_env(spec, Path(folder), needs=needs, settings=settings or {}, install=install)
            try:
                with self._asking():
                    self._client.submit_job(
                        entrypoint=ENTRYPOINT, submission_id=job, runtime_env=env, metadata=metadata
                    )
            except WorkFailedError as error:
                if "already exists" in str(error):  # somebody was faster
                    self._refuse_second(spec)
                raise
        return self.get(job)

    def _refuse_second(self, spec: SweepSpec) -> list[str]:
        """Ids of the sweep's jobs. Raises InputError when one of them runs."""
        mine = [job for job in self.all() if job.sweep == spec.name]
        for job in mine:
            if not job.ended_already:
                raise InputError(
                    f"sweep {spec.name!r} runs already, as job {job.id}: watch it with `sweep logs {spec.name} "
                    "--follow`, end it with `sweep stop`"
                )
        return [job.id for job in mine]

    def until_begun(self, job: str) -> Job:
        """Waits until a job's sweep runs, or has ended. Raises InputError or WorkFailedError with what the job said
        when it ended before."""
        said = []
        with contextlib.closing(self.follow(job)) as lines:
            for line in lines:
                said.append(line)
                if line.startswith(BEGUN):
                    return self.get(job)
        ended = self.get(job)
        raise_failure(ended, said)
        return ended

    def follow(self, job: str) -> Generator[str]:
        """Lines of a job's log as they come, until the job has ended. Goes on after a lost connection."""
        shown, rest, since = 0, "", time.monotonic()
        while True:
            at = 0
            with contextlib.suppress(_Lost), contextlib.closing(self._tail(job)) as chunks:
                for chunk in chunks:
                    new = chunk[max(0, shown - at) :]
                    at += len(chunk)
                    shown, since = max(shown, at), time.monotonic()
                    *lines, rest = (rest + new).split("\n")
                    yield from lines
                if self.get(job).ended_already:
                    break
            if time.monotonic() - since > AWAY_S:
                raise WorkFailedError(f"{self.address} no longer answers; the job goes on if the cluster does")
            time.sleep(1.0)
        if rest:
            yield rest

    def _tail(self, job: str) -> Generator[str]:
        import aiohttp

        loop = asyncio.new_event_loop()
        stream = self._client.tail_job_logs(job)
        try:
            while True:
                try:
                    yield str(loop.run_until_complete(anext(stream)))
                except StopAsyncIteration:
                    return
                except (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException) as error:
                    raise _Lost from error
        finally:
            _close(loop, stream)

    def log(self, job: str) -> list[str]:
        """All lines of a job's log up to now."""
        with self._asking():
            return str(self._client.get_job_logs(job)).splitlines()

    def stop(self, sweep: str) -> tuple[Job, bool]:
        """Asks a sweep's trials to write a checkpoint and end, and waits: the job, and whether its driver had the time
        to finish. Raises InputError when no job of it runs."""
        newest = self.of(sweep)[-1]
        if newest.ended_already:
            raise InputError(f"sweep {sweep!r} is not running: its job {newest.id} is {newest.state}")
        with self._asking():
            self._client.stop_job(newest.id)
        until = time.monotonic() + STOP_WAIT_S + 30
        while not (job := self.get(newest.id)).ended_already:
            if time.monotonic() > until:
                raise WorkFailedError(f"job {job.id} has not stopped yet")
            time.sleep(0.5)
        said = self.log(job.id)
        clean = any(line.startswith(f"refsweep: sweep {sweep} stopped") for line in said)
        return job, clean or not any(line.startswith(BEGUN) for line in said)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """What Ray's client raises, in our words."""
        try:
            yield
        except (requests.RequestException, ConnectionError) as error:
            raise WorkFailedError(f"{self.address} no longer answers: {error}") from error
        except RuntimeError as error:  # also Ray's own errors of authentication
            raise WorkFailedError(f"the cluster at {self.address} refused: {error}") from error


class _Lost(Exception):  # noqa: N818  the connection, not an error of ours
    """The connection to a log was lost."""


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        sweep=metadata.get(SWEEP, ""),
        state=str(details.status.value).lower(),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        ledger=metadata.get(LEDGER, ""),
        started=_time(details.start_time),
        ended=_time(details.end_time),
    )


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def said_at_the_end(log: Sequence[str], message: str) -> str:
    """Why a job ended: what its driver said last, in `refsweep: ...` lines; else the end of its log, else Ray's own
    words."""
    first = next((i for i, line in enumerate(log) if line.startswith("refsweep: ")), None)
    if first is not None:
        return "\n".join(line.removeprefix("refsweep: ") for line in log[first:])
    return "\n".join(log[-30:]) or message


def raise_failure(job: Job, log: Sequence[str]) -> None:
    """Raises what a job that has ended came to: InputError for exit code 2, WorkFailedError for any other failure."""
    if job.state == "succeeded":
        return
    why = said_at_the_end(log, job.message)
    if job.exit_code == 2:
        raise InputError(why)
    if job.exit_code is None:
        raise WorkFailedError(f"job {job.id} {job.state}: {job.message or why}")
    if job.exit_code < 0:
        raise WorkFailedError(f"job {job.id} was killed by signal {-job.exit_code}; submitting again goes on\n{why}")
    raise WorkFailedError(f"job {job.id} {job.state}: {why}")


def _close(loop: asyncio.AbstractEventLoop, stream: AsyncGenerator[str]) -> None:
    """Ends a generator and its loop, in the middle of a step too: Ctrl-C leaves that one pending."""
    pending = asyncio.all_tasks(loop)

    async def end() -> None:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await stream.aclose()

    loop.run_until_complete(end())
    loop.close()
