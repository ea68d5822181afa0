"""`refsweep sweep submit` and `logs`, and what `status`, `list` and `stop` do with `--cluster`."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...datasets.problems import InputError
from .output import Json, Name, Sets, WorkFailedError, show, table, tell

if TYPE_CHECKING:
    from ..jobs.client import Job, Jobs

Cluster = Annotated[
    str | None, typer.Option("--cluster", help="http://HEAD:8265: of a Ray cluster's jobs. Token: RAY_AUTH_TOKEN.")
]
OneCluster = Annotated[
    str, typer.Option("--cluster", help="http://HEAD:8265. Token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Use a cluster that asks nobody for a token.")]


def submit(
    spec: str,
    cluster: OneCluster,
    follow: Annotated[bool, typer.Option("--follow", help="Show the log until the sweep has ended.")] = False,
    sets: Sets = None,
    needs: Annotated[
        list[str] | None,
        typer.Option(help="Variable or file that must be on every host, e.g. HF_TOKEN; repeatable."),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: a variable of the job, no secret; repeatable.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Install the lock on every host first: gigabytes, and the same Ray.")
    ] = False,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Run a sweep on a Ray cluster; go on with it if it has begun. Submitting again is harmless.

    If the driver or the head is lost, Ray does not start the job again: a RayJob's backoffLimit or sbatch --requeue
    does, else a person, by submitting again.
    """
    from ..jobs.client import WHO_RESTARTS, Jobs
    from ..spec.credentials import names_needed, plain_settings
    from ..spec.read import read_spec
    from ..sweep import check_spec

    wanted = check_spec(read_spec(spec, sets or ()), spec)
    settings, names = plain_settings(env or ()), names_needed(needs or ())
    jobs = Jobs(cluster, insecure=insecure)
    job = jobs.submit(wanted, needs=names, settings=settings, install=install)
    tell(f"job {job.id} submitted, waiting for its sweep to begin")
    job = _follow(jobs, job) if follow else jobs.until_begun(job.id)
    words = f"{wanted.name} --cluster {jobs.address}"
    show(
        {"name": wanted.name, "cluster": jobs.address, **job.as_json()},
        as_json,
        f"sweep {wanted.name}: job {job.id} {job.state}",
        *([] if job.ended_already else [f"refsweep sweep logs {words} --follow", f"refsweep sweep stop {words}"]),
        *([] if job.ended_already else [WHO_RESTARTS]),
    )


def _follow(jobs: Jobs, job: Job) -> Job:
    """Shows a job's log to its end. Raises InputError and WorkFailedError when that is no success."""
    from ..jobs.client import raise_failure

    said = []
    try:
        for line in jobs.follow(job.id):
            said.append(line)
            tell(line)
    except KeyboardInterrupt:
        raise WorkFailedError(f"no longer following; job {job.id} goes on") from None
    ended = jobs.get(job.id)
    raise_failure(ended, said)
    return ended


def logs(
    name: Name,
    cluster: OneCluster,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job has ended.")] = False,
    job: Annotated[str | None, typer.Option(help="<sweep>-<n>; default: the newest.")] = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Show the log of a sweep's job."""
    from ..jobs.client import Jobs

    jobs = Jobs(cluster, insecure=insecure)
    found = {j.id: j for j in jobs.of(name)}
    chosen = job or list(found)[-1]
    if chosen not in found:
        raise InputError(f"--job must be one of {', '.join(found)}, got {chosen!r}")
    if follow and not as_json:
        for line in jobs.follow(chosen):
            show(None, False, line)
        return
    if follow:
        for line in jobs.follow(chosen):
            tell(line)
    lines = jobs.log(chosen)
    show({**found[chosen].as_json(), "log": lines}, as_json, *lines)


def list_jobs(cluster: str, insecure: bool, as_json: bool) -> None:
    """The jobs of a cluster."""
    from ..jobs.client import Jobs

    rows = [job.as_json() for job in Jobs(cluster, insecure=insecure).all()]
    show({"cluster": cluster, "jobs": rows}, as_json, table(f"jobs on {cluster}", rows))


def stop(name: str, cluster: str, insecure: bool, as_json: bool) -> None:
    """Stops a sweep's job."""
    from ..jobs.client import Jobs

    job, clean = Jobs(cluster, insecure=insecure).stop(name)
    show({"name": name, "clean": clean, **job.as_json()}, as_json, f"sweep {name}: job {job.id} {job.state}")
    if not clean:
        raise WorkFailedError(f"the driver was killed before it had finished: submitting {name} again goes on")


def status(name: str, cluster: str, insecure: bool, as_json: bool) -> None:
    """How a sweep's job and, where it can be reached from here, its ledger stand."""
    from ..jobs.client import Jobs

    jobs = Jobs(cluster, insecure=insecure)
    mine = jobs.of(name)
    ledger = _from_ledger(name, mine[-1].ledger)
    lines = [line for line in jobs.log(mine[-1].id) if line.strip()][-8:]
    content = {"name": name, "cluster": jobs.address, **mine[-1].as_json()}
    parts: list[Any] = [table(f"jobs of sweep {name}", [job.as_json() for job in mine])]
    if ledger is None:
        parts += [f"its ledger {mine[-1].ledger} can't be reached from here; the end of the job's log:", *lines]
    else:
        parts.append(table(f"sweep {name}: {ledger['state']}", _rows(ledger)))
    show({**content, "sweep": ledger, "log": lines}, as_json, *parts)


def _rows(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: t[k] for k in ("number", "state", "epoch", "value", "cause")} for t in ledger["trials"]]


def _from_ledger(name: str, url: str) -> dict[str, Any] | None:
    from ..ledger.ledger import Ledger
    from ..ledger.status import status as describe

    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")  # libpq's: for ever
    with contextlib.suppress(InputError):
        record = Ledger.open(url, name)
        try:
            return describe(record)
        finally:
            record.close()
    return None
