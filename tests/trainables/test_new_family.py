"""Adding a model touches its folder, its search space, its example and its tests: a copy of the code gets one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("cluster", "datasets", "examples", "orchestration", "search_spaces", "tests", "trainables")

# What CONTRIBUTING.md lists under "Add a model", and no file more.
FILES = {
    "trainables/dice/task.py": '''"""Guesses the mean of dice whose sides are written in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ...datasets.frames.cache import FrameCache
from ...datasets.problems import DataError, InputError, Problem
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..coercion import make_packaged_config
from ..contract import Predictor, Scores
from ..training.config import LoopConfig, bounded
from ..training.package import Package

METRICS = ("error",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(LoopConfig):
    """How dice are thrown."""

    epochs: int = 2
    lr: float = 0.1
    batch: int = 4
    throws: int = bounded(16, 2, 1000)  # an epoch
    power: float = bounded(2.0, 1, 4)  # of the loss


class Dice:
    """The sides of a die."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.frames = FrameCache(1)
        try:
            self.sides = [float(line) for line in store.read("sides.txt").decode().split()]
        except (FileNotFoundError, ValueError) as error:
            raise DataError([Problem("sides.txt", str(error))]) from None


def open_data(store: Store | None) -> Dice:
    """The die at `store`."""
    if store is None:
        raise InputError("dice needs data, got none")
    return Dice(store)


def check_data(store: Store) -> None:
    """Raises DataError for sides that are no numbers."""
    Dice(store)


class Mean:
    """The packaged guess."""

    def __init__(self, mean: float) -> None:
        self.mean = mean

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """`sum` of as many throws as each row has in `throws`."""
        return {"sum": [self.mean * int(count) for count in rows["throws"]]}


def serve(package: Package) -> Mean:
    """The packaged guess, ready to answer."""
    make_packaged_config(Config, package.config)
    return Mean(float(package.weights["mean"]))


def example(_: Dice, __: Config) -> dict[str, list[Any]]:
    """Three throws."""
    return {"throws": [3]}


class Guess(nn.Module):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(()))


class Task:
    """The guess under one Config on one die."""

    eval_splits = ("validation",)
    loss_is_sum = False
    has_unused_parameters = False

    def __init__(self, config: Config, data: Dice) -> None:
        self.config, self.data = config, data
        self.model = Guess()
        self.read = read

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Throws; all sides for an evaluation."""
        if split != "train":
            return pa.table({"side": self.data.sides})
        rng = np.random.default_rng((seed, epoch))
        return pa.table({"side": rng.choice(self.data.sides, self.config.throws)})

    def batch_rows(self, split: str) -> int:
        """Throws in a batch."""
        return self.config.batch

    def eval_shards(self, split: str) -> list[int]:
        """Each side for itself."""
        return [1] * len(self.data.sides)

    def compiled(self) -> list[nn.Module]:
        """None."""
        return []

    def param_groups(self) -> list[dict[str, Any]]:
        """The guess."""
        return [{"params": list(self.model.parameters())}]

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """`distance` of the guess from the throws."""
        return {"distance": ((batch["side"].float() - self.model.mean).abs() ** self.config.power).mean()}

    def facts(self) -> dict[str, Any]:
        """None."""
        return {}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Takes nothing."""

    def predictor(self) -> Predictor:
        """How far each side is."""
        return lambda batch: {"distance": np.abs(batch["side"] - float(self.model.mean))}

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """`error`, the mean distance."""
        return Scores({"error": float(list(predictions.values())[-1]["distance"].mean())}, dict(setting or {}))

    def score_with(self, split: str, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """The same."""
        return dict(self.evaluate({split: predictions}, setting).metrics)


def read(rows: pa.Table, _: Store) -> Arrays:
    """The sides."""
    return {"side": rows.column("side").to_numpy()}
''',
    "search_spaces/dice.py": '''"""The search space of dice."""

from __future__ import annotations

from typing import Any

import optuna

DEFAULTS: dict[str, Any] = {"power": 2.0}
POSTHOC: dict[str, Any] = {}


def space(trial: optuna.Trial) -> dict[str, Any]:
    """The power of the loss."""
    return {"power": trial.suggest_float("power", 1.0, 4.0)}
''',
    "examples/dice.yaml": """name: dice
trainable: dice
data: DATA
storage: STORAGE
objective: {metric: error, mode: min}
search: {trials: 2, sampler: random, pruner: none}
fixed: {throws: 8}
""",
    "tests/trainables/dice/case.py": '''"""A die of six sides."""

from __future__ import annotations

from pathlib import Path

from refsweep.tests.trainables.tools import Case


def write_die(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sides.txt").write_text("1 2 3 4 5 6")


CASE = Case(config={"throws": 8}, write_data=write_die)
''',
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the files of a new family."""
    root = tmp_path_factory.mktemp("copy") / "refsweep"
    for folder in COPIED:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.xz"))
    for file in ("__init__.py", "py.typed", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    (root.parent / "data").mkdir()
    (root.parent / "data" / "sides.txt").write_text("1 2 3 4 5 6")
    places = {"DATA": str(root.parent / "data"), "STORAGE": str(root.parent / "out")}
    for name, content in FILES.items():
        path = root / name
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        for word, place in places.items():
            content = content.replace(word, place) if name.endswith(".yaml") else content
        path.write_text(content)
    return root


def run(checkout: Path, *command: str) -> str:
    """What a program prints that runs the copy's code."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.parent)}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout.parent, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


CLI = ("-c", "from refsweep.orchestration.cli.main import main; main()")


def test_its_space_is_shown(checkout: Path):
    answer = json.loads(run(checkout, *CLI, "space", "dice", "--json"))
    assert answer["parameters"][0]["name"] == "power"
    assert answer["parameters"][0]["allowed"] == "1 .. 4"
    assert {"name": "throws", "default": 16, "allowed": "2 .. 1000", "set by": ""} in answer["fields"]


def test_its_example_runs_as_a_sweep(checkout: Path):
    spec = str(checkout / "examples" / "dice.yaml")
    answer = json.loads(run(checkout, *CLI, "sweep", "run", spec, "--plain", "--json"))
    assert (answer["state"], [trial["state"] for trial in answer["trials"]]) == ("finished", ["COMPLETE"] * 2)


def test_it_passes_the_contract_suite_and_the_tests_of_search_spaces(checkout: Path):
    suites = [str(checkout / "tests" / name) for name in ("trainables/test_contract.py", "search_spaces")]
    out = run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, "-k", "dice")
    passed = int(out.splitlines()[-1].split(" passed")[0].split()[-1])
    assert passed >= 15
    assert "skipped" not in out


def test_contributing_lists_these_files_and_no_others():
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a model\n")[2].partition("\n## ")[0]
    listed = {line.split("`")[1] for line in section.splitlines() if line.startswith("- `")}
    assert listed == {
        "trainables/<name>/",
        "search_spaces/<name>.py",
        "examples/<name>.yaml",
        "tests/trainables/<name>/",
    }
    where = {name.replace("dice", "<name>") for name in FILES}
    assert all(any(name.startswith(place) for place in listed) for name in where)
