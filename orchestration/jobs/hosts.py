"""Looks at every host of a cluster before a sweep begins: same versions, same code, credentials, shared folders."""

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

PATIENCE_S = 180.0  # a host's first worker unpacks the code and reads Python from a cold disk
_AWS = "AWS credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws/credentials, or a role)"
_LIBPQ = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSSLCERT", "~/.pgpass")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What every host must have."""

    needs: tuple[str, ...]  # names of variables, paths of files
    aws: bool
    paths: tuple[str, ...]  # folders and files that hosts must share


@dataclass(frozen=True, slots=True)
class Seen:
    """What one host has."""

    versions: dict[str, str]
    missing: list[str]
    absent: list[str]  # of the shared paths


def check_hosts(spec: SweepSpec, expected: Mapping[str, str], needs: Sequence[str]) -> None:
    """Raises InputError with all that is wrong on any host. Ray must be connected."""
    with _shared_paths(spec) as paths:
        found = look_everywhere(Wanted(tuple(needs), _uses_s3(spec), paths))
    wrong = [line for host, seen in found.items() for line in problems_of(host, seen, expected)]
    if wrong:
        raise InputError("\n".join(wrong))


def problems_of(host: str, seen: Seen | str, expected: Mapping[str, str]) -> list[str]:
    """What is wrong with a host, one line each; a text is why it could not be looked at."""
    if isinstance(seen, str):
        return [f"host {host} can't run refsweep: {seen}"]
    lines = mismatches(expected, seen.versions, f"host {host}")
    lines += [f"host {host} has no {name}" for name in seen.missing]
    lines += [
        f"host {host} does not share {path}: use s3://, or a file system that every host mounts" for path in seen.absent
    ]
    return lines


def _uses_s3(spec: SweepSpec) -> bool:
    return any(place.startswith("s3://") for place in (spec.storage, spec.data))


@contextlib.contextmanager
def _shared_paths(spec: SweepSpec) -> Iterator[tuple[str, ...]]:
    """Paths that are there on every host that shares the spec's folders. In the storage a new file is put: that a
    folder of that name exists elsewhere says nothing."""
    paths = [spec.data] if spec.data.startswith("/") else []
    if spec.storage.startswith("s3://"):
        yield tuple(paths)
        return
    mark = Path(spec.storage) / f".refsweep-{uuid.uuid4().hex}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise InputError(f"storage: must be a folder that the head can write to, got {spec.storage}: {error}") from None
    try:
        yield (*paths, str(mark))
    finally:
        mark.unlink(missing_ok=True)


def look_everywhere(wanted: Wanted) -> dict[str, Seen | str]:
    """What every living host has, by address. One that is lost meanwhile is left out."""
    import ray
    from ray.exceptions import GetTimeoutError, RayTaskError, RuntimeEnvSetupError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        str(node["NodeManagerAddress"]): task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(wanted)
        for node in ray.nodes()
        if node["Alive"]
    }
    found: dict[str, Seen | str] = {}
    for host, answer in asked.items():
        try:
            found[host] = ray.get(answer, timeout=PATIENCE_S)
        except (RayTaskError, RuntimeEnvSetupError, GetTimeoutError) as error:
            found[host] = _last_line(error)
        except ray.exceptions.RayError:  # lost: its trials would go elsewhere too
            continue
    return found


def look(wanted: Wanted) -> Seen:
    """Runs on a host, in a worker: what it has."""
    missing = [need for need in wanted.needs if not _has(need)]
    if wanted.aws and not _has_aws():
        missing.append(_AWS)
    return Seen(versions(), missing, [path for path in wanted.paths if not Path(path).exists()])


def _has(need: str) -> bool:
    return Path(need).expanduser().exists() if need.startswith(("/", "~")) else bool(os.environ.get(need))


def _has_aws() -> bool:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:  # a profile that is not there
        return False


def _last_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def password_hint(ledger_url: str) -> str | None:
    """What may be missing when PostgreSQL lets nobody in: only libpq knows whether it needs any of it."""
    if not ledger_url.startswith("postgresql") or any(_has(name) for name in _LIBPQ):
        return None
    return f"the head has none of {', '.join(_LIBPQ)}"
