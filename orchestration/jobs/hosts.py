"""Inspects every host of a cluster before a sweep begins: same versions, same code, credentials, shared folders."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.problems import InputError
from ..registry.versions import mismatches, versions
from ..spec.schema import SweepSpec

INSPECT_TIMEOUT_S = 180.0  # a host's first worker unpacks the code and reads Python from a cold disk
_AWS = "AWS credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws/credentials, or a role)"
_LIBPQ = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSSLCERT", "~/.pgpass")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNeeds:
    """What every host must have."""

    names: tuple[str, ...]  # of variables, and paths of files
    aws: bool  # credentials for S3
    shared: tuple[str, ...]  # folders and files that all hosts must see


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What one host has."""

    versions: dict[str, str]
    missing: list[str]  # of the names, and AWS credentials
    not_shared: list[str]  # paths that are not there


def check_hosts(spec: SweepSpec, expected: Mapping[str, str], needs: Sequence[str]) -> None:
    """Raises InputError with everything that is wrong on any host. Ray must be connected."""
    with _shared_paths(spec) as paths:
        reports = inspect_hosts(HostNeeds(names=tuple(needs), aws=_uses_s3(spec), shared=paths))
    wrong = [line for host, report in reports.items() for line in problems_of(host, report, expected)]
    if wrong:
        raise InputError("\n".join(wrong))


def problems_of(host: str, report: HostReport | str, expected: Mapping[str, str]) -> list[str]:
    """What is wrong with a host, one line each. A report that is a text says why the host could not be inspected."""
    if isinstance(report, str):
        return [f"host {host} can't run refsweep: {report}"]
    lines = mismatches(expected, report.versions, f"host {host}")
    lines += [f"host {host} has no {name}" for name in report.missing]
    lines += [
        f"host {host} does not share {path}: use s3://, or a file system that every host mounts"
        for path in report.not_shared
    ]
    return lines


def _uses_s3(spec: SweepSpec) -> bool:
    return any(place.startswith("s3://") for place in (spec.storage, spec.data))


@contextlib.contextmanager
def _shared_paths(spec: SweepSpec) -> Iterator[tuple[str, ...]]:
    """Paths that exist on every host that shares the spec's folders.

    In the storage that is a new file: a folder of the same name on another host proves nothing.
    """
    paths = [spec.data] if spec.data.startswith("/") else []
    if spec.storage.startswith("s3://"):
        yield tuple(paths)
        return
    probe = Path(spec.storage) / f".refsweep-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise InputError(f"storage: must be a folder that the head can write to, got {spec.storage}: {error}") from None
    try:
        yield (*paths, str(probe))
    finally:
        probe.unlink(missing_ok=True)


def inspect_hosts(needs: HostNeeds) -> dict[str, HostReport | str]:
    """What every living host has, or why it could not be inspected, by address.

    A host that is lost meanwhile is left out: trials would not be started there either.
    """
    # here, to save start-up time: another thread imports Ray while the job imports this file
    import ray
    from ray.exceptions import GetTimeoutError, RayTaskError, RuntimeEnvSetupError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(inspect_host)
    pending = {
        str(node["NodeManagerAddress"]): task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(needs)
        for node in ray.nodes()
        if node["Alive"]
    }
    reports: dict[str, HostReport | str] = {}
    for host, report in pending.items():
        try:
            reports[host] = ray.get(report, timeout=INSPECT_TIMEOUT_S)
        except (RayTaskError, RuntimeEnvSetupError, GetTimeoutError) as error:
            reports[host] = _last_line(error)
        except ray.exceptions.RayError:
            continue
    return reports


def inspect_host(needs: HostNeeds) -> HostReport:
    """What the host has on which this runs."""
    missing = [name for name in needs.names if not _has(name)]
    if needs.aws and not _has_aws():
        missing.append(_AWS)
    not_shared = [path for path in needs.shared if not Path(path).exists()]
    return HostReport(versions=versions(), missing=missing, not_shared=not_shared)


def _has(name: str) -> bool:
    return Path(name).expanduser().exists() if name.startswith(("/", "~")) else bool(os.environ.get(name))


def _has_aws() -> bool:
    import boto3  # here, since it takes half a second that a sweep without S3 need not wait
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:  # a profile that does not exist
        return False


def _last_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def password_hint(ledger_url: str) -> str | None:
    """What may be missing on the head when PostgreSQL can't be opened: only libpq knows whether it needs any of it."""
    if not ledger_url.startswith("postgresql") or any(_has(name) for name in _LIBPQ):
        return None
    return f"the head has none of {', '.join(_LIBPQ)}"
