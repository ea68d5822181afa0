"""What is sent to a cluster with a job: the code, the spec, and the versions to compare there.

Ray would install a wheel among `py_modules` with `pip install --target`, together with its dependencies: gigabytes from
an index on every host. So the wheel is sent unpacked, package and metadata, which needs neither pip nor an index. Ray
stores it under the hash of its content, and its code takes precedence over what the cluster has installed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import refsweep

from ...datasets.problems import InputError
from ..registry.versions import versions
from ..registry.wheel import write_wheel
from ..spec.credentials import holds_password
from ..spec.locations import sqlite_path
from ..spec.schema import SweepSpec
from .protocol import JobContent

# between SIGTERM and SIGKILL, for which Ray gives 3 s: trials get 60 s for a checkpoint, MLflow the rest
STOP_TIMEOUT_S = 180


def check_places(spec: SweepSpec) -> None:
    """Raises InputError for places that would mean something else on the cluster, and for passwords in the spec."""
    wrong = []
    for field in ("storage", "data"):
        place = getattr(spec, field)
        if place != "none" and "://" not in place and not place.startswith(("/", "made:")):
            wrong.append(f"{field}: must be s3:// or an absolute path that exists on every host, got {place!r}")
    for field in ("ledger", "tracking"):
        url = getattr(spec, field)
        if url is not None and sqlite_path(url) is not None and not url.startswith("sqlite:////"):
            wrong.append(f"{field}: must be a server, or sqlite:/// with an absolute path, got {url!r}")
    if holds_password(json.dumps(spec.as_json())):
        wrong.append(
            "spec: must not contain a URL with a password: everyone who can list the cluster's jobs can read it"
        )
    if wrong:
        raise InputError("\n".join(wrong))


def runtime_env(
    spec: SweepSpec, folder: Path, *, needs: Sequence[str], settings: Mapping[str, str], install: bool, token: str
) -> dict[str, Any]:
    """Ray's runtime environment of a job; its files are written into `folder`.

    Raises InputError for `install` without a requirements.lock.
    """
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    code, work = folder / "code", folder / "work"
    with zipfile.ZipFile(write_wheel(folder)) as wheel:
        wheel.extractall(code)
    work.mkdir()
    JobContent(spec=spec.as_json(), versions=versions(), needs=list(needs), token=token).write(work)
    environment: dict[str, Any] = {
        "py_modules": sorted(str(path) for path in code.iterdir()),
        "working_dir": str(work),
        "env_vars": {**settings, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_TIMEOUT_S)},
    }
    if install:
        environment["pip"] = _lock(work)
    return environment


def _lock(work: Path) -> dict[str, Any]:
    """Ray's `pip` field: on every host a virtual environment over the cluster's, with what differs from the lock."""
    lock = Path(str(refsweep.__file__)).parent / "requirements.lock"
    if not lock.exists():
        raise InputError(
            "--install needs requirements.lock, which an installed package does not have: submit from a checkout"
        )
    # Ray identifies an environment by this text alone, so the file's name must change with its content
    name = f"requirements-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}.lock"
    shutil.copy(lock, work / name)
    return {"packages": [f"-r ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{name}"], "pip_check": False}
