"""`refsweep sweep submit` and `logs`, and what `status`, `list` and `stop` do with `--cluster`.

Imports inside functions save start-up time: commands without a cluster don't load Ray's client.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...datasets.problems import InputError
from ..spec.errors import WorkFailedError
from .output import Json, Name, Sets, show, table, tell

if TYPE_CHECKING:
    from ..jobs.client import Jobs
    from ..jobs.job import Job

RESTART_HINT = (
    "If the driver or the head node fails, Ray does not restart the job. Submit the same spec again to continue the "
    "sweep. A Kubernetes RayJob with backoffLimit, or sbatch --requeue, restarts it automatically."
)
LAST_LINES = 8  # of a job's log, in `status`
_ADDRESS = "Dashboard of a Ray cluster, http://HEAD:8265; the token is read from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."

Cluster = Annotated[str | None, typer.Option("--cluster", help=_ADDRESS)]
OneCluster = Annotated[str, typer.Option("--cluster", help=_ADDRESS)]
Insecure = Annotated[bool, typer.Option("--insecure", help="Accept a cluster without token authentication.")]


def submit(
    spec: str,
    cluster: OneCluster,
    follow: Annotated[bool, typer.Option("--follow", help="Show the log until the job has ended.")] = False,
    sets: Sets = None,
    needs: Annotated[
        list[str] | None,
        typer.Option(
            help="A variable (HF_TOKEN) or an absolute path that every host must have; checked first; repeatable."
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: an environment variable for the job; secrets are rejected; repeatable."),
    ] = None,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Install requirements.lock on every host first: gigabytes; Ray itself must already be this version.",
        ),
    ] = False,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Run a sweep on a Ray cluster, or continue one that has begun; safe to repeat.

    If the driver or the head node fails, Ray does not restart the job: submit the same spec again to continue. A
    RayJob's backoffLimit or sbatch --requeue restarts it automatically.
    """
    from ..jobs.client import Jobs
    from ..spec.credentials import names_needed, plain_settings
    from ..spec.read import read_spec
    from ..sweep import check_spec

    wanted = check_spec(read_spec(spec, sets or ()), spec)
    settings, names = plain_settings(env or ()), names_needed(needs or ())
    jobs = Jobs(cluster, insecure=insecure)
    job = jobs.submit(wanted, needs=names, settings=settings, install=install)
    tell(f"job {job.id} submitted, waiting for its sweep to begin")
    job = _follow(jobs, job) if follow else jobs.until_begun(job.id)
    arguments = f"{wanted.name} --cluster {jobs.address}"
    next_steps = [f"refsweep sweep logs {arguments} --follow", f"refsweep sweep stop {arguments}", RESTART_HINT]
    show(
        {"name": wanted.name, "cluster": jobs.address, **job.as_json()},
        as_json,
        f"sweep {wanted.name}: job {job.id} {job.state}",
        *([] if job.is_over else next_steps),
    )


def _follow(jobs: Jobs, job: Job) -> Job:
    """Shows a job's log until the job is over. Raises InputError and WorkFailedError when it has failed."""
    lines: list[str] = []
    try:
        for line in jobs.follow(job.id):
            lines.append(line)
            for shown in job.readable([line]):
                tell(shown)
    except KeyboardInterrupt:
        raise WorkFailedError(f"stopped following; job {job.id} keeps running") from None
    ended = jobs.get(job.id)
    ended.raise_failure(lines)
    return ended


def logs(
    name: Name,
    cluster: OneCluster,
    follow: Annotated[bool, typer.Option("--follow", help="Show new lines until the job has ended.")] = False,
    job: Annotated[str | None, typer.Option(help="Job of the sweep, <sweep>-<n>; default: the newest.")] = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Show the log of a sweep's job."""
    from ..jobs.client import Jobs

    jobs = Jobs(cluster, insecure=insecure)
    known = {j.id: j for j in jobs.of(name)}
    chosen = known.get(job or [*known][-1])
    if chosen is None:
        raise InputError(f"--job must be one of {', '.join(known)}, got {job!r}")
    if follow:
        for line in chosen.readable(jobs.follow(chosen.id)):
            if as_json:
                tell(line)
            else:
                show(None, False, line)
        if not as_json:
            return
    lines = [*chosen.readable(jobs.log(chosen.id))]
    show({**chosen.as_json(), "log": lines}, as_json, *lines)


def list_jobs(cluster: str, insecure: bool, as_json: bool) -> None:
    """Shows the jobs of a cluster."""
    from ..jobs.client import Jobs

    rows = [job.as_json() for job in Jobs(cluster, insecure=insecure).all()]
    show({"cluster": cluster, "jobs": rows}, as_json, table(f"jobs on {cluster}", rows))


def stop(name: str, cluster: str, insecure: bool, as_json: bool, storage: str | None, ledger: str | None) -> None:
    """Stops a sweep's job, of the sweep that has these places. Raises WorkFailedError when its driver had to be
    killed."""
    from ..jobs.client import Jobs

    job, clean = Jobs(cluster, insecure=insecure).stop(name, ledger, storage)
    show({"name": name, "clean": clean, **job.as_json()}, as_json, f"sweep {name}: job {job.id} {job.state}")
    if not clean:
        raise WorkFailedError(f"the driver was killed before it had finished; submit {name} again to continue")


def status(name: str, cluster: str, insecure: bool, as_json: bool) -> None:
    """Shows a sweep's jobs and, where it can be reached from here, its ledger."""
    from ..jobs.client import Jobs

    jobs = Jobs(cluster, insecure=insecure)
    own = jobs.of(name)
    newest = own[-1]
    ledger = _from_ledger(name, newest.ledger)
    lines = [line for line in newest.readable(jobs.log(newest.id)) if line.strip()][-LAST_LINES:]
    content = {"name": name, "cluster": jobs.address, **newest.as_json()}
    parts: list[Any] = [table(f"jobs of sweep {name}", [job.as_json() for job in own])]
    if ledger is None:
        parts += [f"the ledger {newest.ledger} can't be reached from here; the end of the job's log:", *lines]
    else:
        parts.append(table(f"sweep {name}: {ledger['state']}", _rows(ledger)))
    show({**content, "sweep": ledger, "log": lines}, as_json, *parts)


def _rows(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: t[k] for k in ("number", "state", "epoch", "value", "cause")} for t in ledger["trials"]]


def _from_ledger(name: str, url: str) -> dict[str, Any] | None:
    from ..ledger.ledger import Ledger
    from ..ledger.status import status as describe

    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")  # libpq would wait for ever
    with contextlib.suppress(InputError):
        record = Ledger.open(url, name, readonly=True)
        try:
            return describe(record)
        finally:
            record.close()
    return None
