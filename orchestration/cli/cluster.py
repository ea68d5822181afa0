"""`refsweep cluster`: a Ray cluster on this machine, for trying things out.

Imports inside functions save start-up time: other commands load nothing of the cluster's servers.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...datasets.problems import InputError
from ..spec.errors import WorkFailedError
from .output import Json, show, table, tell

if TYPE_CHECKING:
    from ...cluster.local import LocalCluster

app = typer.Typer(no_args_is_help=True, help="A Ray cluster on this machine, for trying things out.")


@app.callback()
def _group() -> None:
    """Keeps `local` a subcommand while it is the only one."""


@app.command("local")
def cluster_local(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="A command after --: run it with the cluster's settings, then end the cluster."),
    ] = None,
    hosts: Annotated[int, typer.Option(help="Number of hosts, including the head.")] = 3,
    cpus: Annotated[int, typer.Option(help="CPUs of each worker host; the head runs no trials.")] = 1,
    folder: Annotated[str, typer.Option(help="Folder for logs and settings.")] = "./refsweep-cluster",
    as_json: Json = False,
) -> None:
    """Start a Ray cluster of several hosts on this machine, with S3, PostgreSQL and MLflow servers. Ctrl-C ends it.

    With root rights and iproute2, every host is a network namespace; otherwise all hosts share the loopback network.
    Everything stored in the cluster is deleted when it ends. In another terminal, `. FOLDER/env.sh` sets its addresses
    and secrets.
    """
    from ...cluster.local import LocalCluster
    from ...cluster.programs import ClusterError, MissingError

    try:
        # a single host is both head and worker
        cluster = LocalCluster(Path(folder), hosts, cpus, head_cpus=cpus if hosts == 1 else 0)
    except (MissingError, ValueError) as error:
        raise InputError(str(error)) from error
    tell(f"starting {hosts} hosts, S3, PostgreSQL and MLflow")
    try:
        with cluster:
            settings = write_settings(cluster)
            if command:
                code = subprocess.run(command, env={**os.environ, **exported(cluster)}, check=False).returncode
                raise typer.Exit(code if code >= 0 else 128 - code)
            _show(cluster, settings, as_json)
            while cluster.alive(0):
                time.sleep(1.0)
            raise WorkFailedError("Ray on host 0 has ended: " + str(cluster.folder / "logs"))
    except KeyboardInterrupt:
        tell("the cluster has ended")
    except FileNotFoundError as error:
        raise InputError(f"no such command: {error.filename}") from error
    except MissingError as error:
        raise InputError(str(error)) from error
    except ClusterError as error:
        raise WorkFailedError(str(error)) from error


def exported(cluster: LocalCluster) -> dict[str, str]:
    """Environment variables with which commands on this machine reach the cluster and its servers; with secrets."""
    places = {"DASHBOARD": cluster.dashboard, "STORAGE": cluster.storage, "LEDGER": cluster.ledger}
    return {**cluster.environment(), **{f"REFSWEEP_{name}": value for name, value in places.items()}}


def write_settings(cluster: LocalCluster) -> Path:
    """Writes `env.sh`, for `.` in a shell, into the cluster's folder. Only its owner may read it."""
    from ...cluster.programs import write_secret

    path = cluster.folder / "env.sh"
    write_secret(path, "".join(f"export {k}={shlex.quote(v)}\n" for k, v in exported(cluster).items()))
    return path


def _show(cluster: LocalCluster, settings: Path, as_json: bool) -> None:
    locations = {
        "address": cluster.address,
        "dashboard": cluster.dashboard,
        "storage": cluster.storage,
        "s3": cluster.s3.url,
        "ledger": cluster.ledger,
        "tracking": cluster.tracking,
        "settings": str(settings),
        "namespaces": cluster.namespaces,
    }
    show(
        locations,
        as_json,
        table("cluster", [{"what": k, "where": v} for k, v in locations.items()]),
        "In another terminal, to use this cluster:",
        f"  . {shlex.quote(str(settings))}",
        "  refsweep sweep submit SPEC --cluster $REFSWEEP_DASHBOARD",
        "Ctrl-C ends the cluster and deletes what it stores.",
    )
    sys.stdout.flush()
