"""Ray as a command starts it on one machine, and what a driver imports before its first trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from refsweep.orchestration.execution.ray_start import preloaded
from refsweep.trainables import discovery

STARTED = """
import json, os, pathlib, sys
import ray
from ray._private.node import Node
from refsweep.orchestration.execution.ray_start import preloaded, ray_in_background

@ray.remote
class Process:
    def modules(self, names):
        return [name for name in names if name in sys.modules]

def commands_below(root):
    parents, commands = {}, {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(process.name)] = (process / "cmdline").read_text()
        except OSError:
            continue
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [commands[pid] for pid in below - {root}]

method = Node.start_api_server
with ray_in_background("toy") as connected:
    connected()
    [folder] = pathlib.Path(os.environ["RAY_TMPDIR"]).iterdir()
    modes = [oct(path.stat().st_mode & 0o777) for path in (folder, pathlib.Path.home() / ".ray" / "auth_token")]
    sessions = [path.name for path in folder.glob("*/session_2*")]
    loaded = ray.get(Process.remote().modules.remote(preloaded("toy")))
    commands = commands_below(os.getpid())
print(json.dumps({
    "loaded": loaded,
    "servers": [c for c in commands if any(s in c for s in ("dashboard.py", "monitor.py", "log_monitor"))],
    "raylets": sum("raylet/raylet" in c for c in commands),
    "restored": Node.start_api_server is method,
    "modes": modes,
    "sessions": len(sessions),
    "left": os.listdir(os.environ["RAY_TMPDIR"]),
}))
"""

DRIVER = """
import sys
from refsweep.orchestration.cli import sweep
from refsweep.orchestration.execution.tune import TuneBackend
from refsweep.orchestration.sweep import check_spec, open_sweep
from refsweep.orchestration.search.spaces import search_space
name, data, metric = sys.argv[1:]
content = {"name": "a", "trainable": name, "data": data, "objective": {"metric": metric, "mode": "max"}}
open_sweep(check_spec(content))
search_space(name)
print(sorted({"torch", "transformers", "mlflow"} & set(sys.modules)))
"""


def run(code: str, *words: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, env=env)
    return done.stdout


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """An empty folder whose path leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="rst", dir="/tmp") as folder:
        yield Path(folder)


def test_processes_import_what_trials_need_nothing_serves_nobody_and_nothing_is_left(short: Path, tmp_path: Path):
    dead = short / "refsweep-ray-dead"
    dead.mkdir()
    (dead / "owner").write_text("")
    home = {"HOME": str(tmp_path), "RAY_TMPDIR": str(short), "RAY_ADDRESS": ""}
    started = json.loads(run(STARTED, **home).splitlines()[-1])
    modes = ["0o700", "0o600"]
    assert started == {
        "loaded": preloaded("toy"),
        "servers": [],
        "raylets": 1,
        "restored": True,
        "modes": modes,
        "sessions": 1,
        "left": [],
    }


@pytest.mark.parametrize("name", discovery.names())
def test_modules_to_import_first_exist(name: str):
    assert all(find_spec(module) for module in preloaded(name))


@pytest.mark.parametrize("name", ["toyy", "", None, ["toy"]])
def test_nothing_is_imported_first_for_a_trainable_that_is_none(name: str):
    assert preloaded(name) == []


@pytest.mark.parametrize("name", discovery.names())
def test_a_driver_imports_no_torch(name: str, tmp_path_factory: pytest.TempPathFactory):
    metric = discovery.load_part(name, "METRICS")[0]
    data = "none" if name == "toy" else str(tmp_path_factory.mktemp("data"))
    assert run(DRIVER, name, data, metric).strip() == "[]"
