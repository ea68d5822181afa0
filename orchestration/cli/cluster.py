"""`refsweep cluster`: a Ray cluster to try things on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...datasets.problems import InputError
from .output import Json, show, table, tell

if TYPE_CHECKING:
    from ...cluster.local import LocalCluster

app = typer.Typer(no_args_is_help=True, help="A Ray cluster to try things on.")


@app.callback()
def _group() -> None:
    """Keeps `local` a subcommand while it is the only one."""


@app.command("local")
def cluster_local(
    command: Annotated[
        list[str] | None, typer.Argument(help="After --: run this with the cluster's settings, then end the cluster.")
    ] = None,
    hosts: Annotated[int, typer.Option(help="Hosts, the head included.")] = 3,
    cpus: Annotated[int, typer.Option(help="CPUs that Ray counts on a host; the head has none for trials.")] = 1,
    folder: Annotated[str, typer.Option(help="Logs and settings go here.")] = "./refsweep-cluster",
    as_json: Json = False,
) -> None:
    """Start a Ray cluster of several hosts on this machine, with S3, PostgreSQL and MLflow; Ctrl-C ends it.

    As root with iproute2 every host is a network namespace, else hosts share loopback. What it stores is gone when
    it ends. In another terminal `. FOLDER/env.sh` gives commands the cluster's addresses and secrets.
    """
    from ...cluster.local import LocalCluster
    from ...cluster.programs import ClusterError, MissingError
    from .output import WorkFailedError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # One host is head and worker at once.
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
    """What commands need on this machine: how to be let in, and where the servers are."""
    places = {"DASHBOARD": cluster.dashboard, "STORAGE": cluster.storage, "LEDGER": cluster.ledger}
    return {**cluster.environment(), **{f"REFSWEEP_{name}": value for name, value in places.items()}}


def write_settings(cluster: LocalCluster) -> Path:
    """`env.sh` in the cluster's folder, for `.` in a shell; only its owner may read it."""
    from ...cluster.programs import write_secret

    path = cluster.folder / "env.sh"
    write_secret(path, "".join(f"export {k}={shlex.quote(v)}\n" for k, v in exported(cluster).items()))
    return path


def _show(cluster: LocalCluster, settings: Path, as_json: bool) -> None:
    found = {
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
        found,
        as_json,
        table("cluster", [{"what": k, "where": v} for k, v in found.items()]),
        "In another terminal, for this cluster's addresses and secrets:",
        f"  . {shlex.quote(str(settings))}",
        "  refsweep sweep submit SPEC --cluster $REFSWEEP_DASHBOARD",
        "Ctrl-C ends the cluster and what it stores.",
    )
    sys.stdout.flush()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
