"""Sweeps as jobs of a Ray cluster: submit, follow, list, stop.

A job is the sweep's driver, on the head. It needs nothing of the machine that submitted it. Which sweep a job runs is
known from Ray's record of jobs alone: its metadata (`protocol`) names the sweep and the ledger, and holds no secret.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import requests

from ...datasets.problems import InputError
from ..registry.versions import mismatches, versions
from ..spec.errors import WorkFailedError
from ..spec.read import settle
from ..spec.same_place import shown
from ..spec.schema import SweepSpec
from .dashboard import connect
from .job import Job, job_from, next_id
from .log import follow
from .package import STOP_TIMEOUT_S, check_places, runtime_env
from .protocol import CODE, ENTRYPOINT, LEDGER, STORAGE, SWEEP, TOKEN, Begun, Ended, new_token

STOP_POLL_S = 0.5


class Jobs:
    """The jobs of one cluster.

    Every method raises WorkFailedError when the cluster no longer answers or refuses the request.
    """

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        """Connects to the dashboard at `address`. Raises InputError for a cluster that can't be used."""
        self.address = address.rstrip("/")
        with self._errors_of_ray():
            self._client, self.ray_version = connect(address, insecure=insecure)

    def all(self) -> list[Job]:
        """Every job that runs a sweep, oldest first."""
        with self._errors_of_ray():
            listed = self._client.list_jobs()
        jobs = [job for details in listed if (job := job_from(details)) is not None]
        return sorted(jobs, key=lambda job: (job.started or "", job.sweep, job.number))

    def of(self, sweep: str, ledger: str | None = None, storage: str | None = None) -> list[Job]:
        """The jobs of a sweep, oldest first, at least one; with places, of the one sweep of that name that has them.
        Raises InputError if there is none."""
        jobs = self.all()
        named = sorted((job for job in jobs if job.sweep == sweep), key=lambda job: job.number)
        if not named:
            names = ", ".join(sorted({job.sweep for job in jobs})) or "none"
            raise InputError(f"no job of sweep {sweep!r} on {self.address}; there are: {names}")
        own = [job for job in named if job.is_at(ledger, storage)]
        if not own:
            others = "; ".join(sorted({f"{job.id}: {job.places}" for job in named}))
            raise InputError(
                f"the jobs of sweep {sweep!r} on {self.address} are of another sweep of that name: {others}"
            )
        return own

    def get(self, job: str) -> Job:
        """A job's record as it is now."""
        with self._errors_of_ray():
            known = job_from(self._client.get_job_info(job))
        if known is None:
            raise WorkFailedError(f"job {job} of {self.address} runs no sweep")
        return known

    def submit(
        self,
        spec: SweepSpec,
        *,
        needs: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        install: bool = False,
    ) -> Job:
        """Submits a sweep's driver.

        Args:
            spec: the sweep. Its places must mean the same on every host of the cluster.
            needs: variables and files that every host must have.
            settings: environment variables of the job; no secrets.
            install: install what requirements.lock pins on every host first.

        Raises:
            InputError: for a spec or a cluster that can't be used, and while the sweep runs already.
        """
        check_places(spec)
        spec = settle(spec)
        wrong = mismatches(versions(), {"ray": self.ray_version}, "the cluster")
        if wrong:
            raise InputError("\n".join(wrong))
        earlier = self._ended_jobs(spec)
        job, token = next_id(spec.name, earlier), new_token()
        places = {LEDGER: shown(spec.ledger_url), STORAGE: shown(spec.storage)}
        metadata = {SWEEP: spec.name, **places, CODE: versions()["refsweep"], TOKEN: token}
        with tempfile.TemporaryDirectory(prefix="refsweep-job-") as folder:
            env = runtime_env(spec, Path(folder), needs=needs, settings=settings or {}, install=install, token=token)
            try:
                with self._errors_of_ray():
                    self._client.submit_job(
                        entrypoint=ENTRYPOINT, submission_id=job, runtime_env=env, metadata=metadata
                    )
            except WorkFailedError:
                self._ended_jobs(spec)  # somebody else may have submitted the same id in the meantime: say that
                raise
        return self.get(job)

    def _ended_jobs(self, spec: SweepSpec) -> list[str]:
        """Ids of the jobs of sweeps of this name: ids are unique on a cluster. Raises InputError when this sweep has
        one that is not over, or when another sweep has one in the same storage."""
        named = [job for job in self.all() if job.sweep == spec.name]
        for job in named:
            if job.is_over:
                continue
            if job.is_at(spec.ledger_url, spec.storage) or job.is_at(spec.ledger_url, None):
                raise InputError(
                    f"sweep {spec.name!r} is already running as job {job.id}: watch it with `sweep logs {spec.name} "
                    "--follow`, or stop it with `sweep stop`"
                )
            if job.is_at(None, spec.storage):
                raise InputError(
                    f"job {job.id} runs another sweep {spec.name!r} in the same storage ({job.places}): give this one "
                    "another name (--set name=...) or another storage"
                )
        return [job.id for job in named]

    def until_begun(self, job: str) -> Job:
        """Waits until a job's sweep has begun or the job is over. Raises InputError or WorkFailedError with the
        driver's message when it failed before."""
        record, lines = self.get(job), []
        with contextlib.closing(self.follow(job)) as log:
            for line in log:
                lines.append(line)
                if isinstance(record.event_of(line), Begun):
                    return self.get(job)
        record = self.get(job)
        record.raise_failure(lines)
        return record

    def follow(self, job: str) -> Generator[str]:
        """Raw lines of a job's log as they are written, until the job is over; reconnects when it has to."""
        return follow(self._client, job, lambda: self.get(job).is_over)

    def log(self, job: str) -> list[str]:
        """All raw lines of a job's log up to now."""
        with self._errors_of_ray():
            return str(self._client.get_job_logs(job)).splitlines()

    def stop(self, sweep: str, ledger: str | None = None, storage: str | None = None) -> tuple[Job, bool]:
        """Asks a sweep's driver to let trials write checkpoints and to end, and waits for it.

        Returns the job, and whether the driver ended by itself (False: Ray killed it). Raises InputError when no job
        of the sweep runs, and when two sweeps of that name do and no place says which is meant.
        """
        own = self.of(sweep, ledger, storage)
        running = [job for job in own if not job.is_over]
        if len(running) > 1:
            which = "; ".join(f"{job.id}: {job.places}" for job in running)
            raise InputError(f"several sweeps {sweep!r} run, say which by --ledger or --storage: {which}")
        newest = (running or own)[-1]
        if newest.is_over:
            raise InputError(f"sweep {sweep!r} is not running: its job {newest.id} is {newest.state}")
        with self._errors_of_ray():
            self._client.stop_job(newest.id)
        until = time.monotonic() + STOP_TIMEOUT_S + 30
        while not (job := self.get(newest.id)).is_over:
            if time.monotonic() > until:
                raise WorkFailedError(f"job {job.id} has not stopped yet")
            time.sleep(STOP_POLL_S)
        events = job.events(self.log(job.id))
        begun = any(isinstance(event, Begun) for event in events)
        return job, not begun or any(isinstance(event, Ended) for event in events)

    @contextlib.contextmanager
    def _errors_of_ray(self) -> Iterator[None]:
        """Turns what Ray's client raises into WorkFailedError."""
        try:
            yield
        except (requests.RequestException, ConnectionError) as error:
            raise WorkFailedError(f"{self.address} no longer answers: {error}") from error
        except RuntimeError as error:  # Ray's client has no other type; its authentication errors are of it too
            raise WorkFailedError(f"the cluster at {self.address} refused: {error}") from error
