"""What travels to a cluster with a job: the code, the spec, and what to compare there.

Ray installs a wheel among `py_modules` with `pip install --target`, dependencies and all: gigabytes from an index on
every host. So the wheel travels unpacked, package and metadata, which needs neither pip nor an index; Ray keeps it
under the hash of its content and puts it before everything that the cluster has installed.
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

STOP_WAIT_S = 180  # between SIGTERM and SIGKILL, Ray's own 3 s: trials get 60 s for a checkpoint, MLflow the rest
JOB_FILE = "job.json"  # in the job's working folder
# PYTHONSAFEPATH: a folder named refsweep where the cluster was started is not taken for the package
ENTRYPOINT = "PYTHONSAFEPATH=1 exec python -m refsweep.orchestration.cli.job"


def check_places(spec: SweepSpec) -> None:
    """Raises InputError for places that mean something else on the cluster than here, and for passwords."""
    wrong = []
    for field in ("storage", "data"):
        place = getattr(spec, field)
        if place != "none" and "://" not in place and not place.startswith(("/", "made:")):
            wrong.append(f"{field}: must be s3:// or an absolute path that every host has, got {place!r}")
    for field in ("ledger", "tracking"):
        url = getattr(spec, field)
        if url is not None and sqlite_path(url) is not None and not url.startswith("sqlite:////"):
            wrong.append(f"{field}: must be a server, or sqlite:/// with an absolute path, got {url!r}")
    if holds_password(json.dumps(spec.as_json())):
        wrong.append("spec: must hold no URL with a password: the cluster shows a job's spec to everybody")
    if wrong:
        raise InputError("\n".join(wrong))


def runtime_env(
    spec: SweepSpec, folder: Path, *, needs: Sequence[str], settings: Mapping[str, str], install: bool
) -> dict[str, Any]:
    """Ray's runtime environment of a job; its files are made in `folder`. Raises InputError without a lock to ship."""
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    code, work = folder / "code", folder / "work"
    with zipfile.ZipFile(write_wheel(folder)) as wheel:
        wheel.extractall(code)
    work.mkdir()
    content = {"spec": spec.as_json(), "versions": versions(), "needs": list(needs)}
    (work / JOB_FILE).write_text(json.dumps(content, indent=1, sort_keys=True))
    made: dict[str, Any] = {
        "py_modules": sorted(str(path) for path in code.iterdir()),
        "working_dir": str(work),
        "env_vars": {**settings, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
    }
    if install:
        made["pip"] = _lock(work)
    return made


def _lock(work: Path) -> dict[str, Any]:
    """Ray makes a virtual environment on every host, over the cluster's, and installs what differs from the lock."""
    lock = Path(str(refsweep.__file__)).parent / "requirements.lock"
    if not lock.exists():
        raise InputError(
            "--install needs requirements.lock, which an installed package has not: submit from a checkout"
        )
    # Ray names the environment after this text alone: the name must change with the content
    name = f"requirements-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}.lock"
    shutil.copy(lock, work / name)
    return {"packages": [f"-r ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{name}"], "pip_check": False}
