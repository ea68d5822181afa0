"""A version's requirements are what its model needs: no more than it imports, no less than lets it answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.registry.packaging import model_files
from refsweep.orchestration.registry.requirements import PYFUNC, ServingProcess, closure, requirements_of
from refsweep.orchestration.spec.errors import WorkFailedError
from refsweep.tests.trainables.mm_reid import case as mm_people
from refsweep.tests.trainables.t2i_reid import case as people
from refsweep.trainables import coercion, discovery
from refsweep.trainables.training.package import Package

SMALL_IKUN = {"tower": "conv-tiny", "weights": None, "crop_px": 16, "frame_px": 32, "feature_dim": 16}
FAMILIES: dict[str, tuple[dict[str, Any], Callable[[Path], Any] | None]] = {
    "toy": ({}, None),
    "ikun": (SMALL_IKUN, None),
    "t2i_reid": (people.SMALL, people.write_people),
    "mm_reid": (mm_people.TINY, mm_people.write_people),
}


@dataclass(frozen=True)
class Saved:
    """An untrained model of a family, as MLflow stores a version of it."""

    family: str
    folder: Path
    requirements: list[str]
    answer: dict[str, list[Any]]  # of this process, to the example


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    family, folder = request.param, tmp_path_factory.mktemp("model")
    settings, write = FAMILIES[family]
    place = made
    if write is not None:
        place = folder / "data"
        write(place)
    module = discovery.load(family)
    config = coercion.make_config(module.Config, settings)
    data = module.open_data(None if family == "toy" else Store(str(place)))
    torch.manual_seed(0)
    task = module.Task(config, data)
    package = Package(
        trainable=family,
        config=asdict(config),
        setting={},
        facts=task.facts(),
        origin={},
        weights=task.model.state_dict(),
    )
    (folder / "files").mkdir()
    with ServingProcess(family) as serving:
        files = model_files(package, None if family == "toy" else str(place), folder / "files", serving)
    mlflow.pyfunc.save_model(str(folder / "model"), **files)
    answer = module.serve(package).predict(module.example(data, config))
    return Saved(family, folder / "model", files["pip_requirements"], answer)


def alone(folder: Path, requirements: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Serves the model where only these requirements and their declared dependencies can be imported."""
    allowed = closure(Requirement(line).name for line in requirements)
    script = Path(__file__).with_name("served_alone.py")
    command = [sys.executable, "-P", str(script), str(folder), json.dumps(sorted(allowed))]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=240)


def test_a_model_answers_where_only_its_requirements_are_installed(saved: Saved):
    stored = (saved.folder / "requirements.txt").read_text().split()
    assert sorted(stored) == sorted(saved.requirements)
    served = alone(saved.folder, stored)
    assert served.returncode == 0, served.stderr[-3000:]
    answer = json.loads(served.stdout.splitlines()[-1])
    assert answer.keys() == saved.answer.keys()
    for column, values in answer.items():
        np.testing.assert_allclose(values, saved.answer[column], atol=1e-6, err_msg=column)


def test_requirements_are_pinned_and_name_nothing_that_only_sweeps_need(saved: Saved):
    parsed = [Requirement(line) for line in saved.requirements]
    assert all(str(r.specifier).startswith("==") and "+" not in str(r.specifier) for r in parsed)
    names = {r.name for r in parsed}
    assert len(names) == len(parsed)
    assert {"torch", "numpy", "safetensors", "pyarrow", *PYFUNC} <= names
    assert not names & {"ray", "optuna", "refsweep", "psycopg", "boto3", "typer", "Flask", "SQLAlchemy", "pydantic"}
    if saved.family == "t2i_reid":
        assert {"transformers", "tokenizers"} <= names
    if saved.family == "toy":
        assert not names & {"transformers", "open_clip_torch", "torchvision"}


@pytest.mark.parametrize("saved", ["t2i_reid"], indirect=True)
def test_a_model_without_one_of_its_requirements_does_not_answer(saved: Saved):
    left = [line for line in saved.requirements if Requirement(line).name != "transformers"]
    assert len(left) == len(saved.requirements) - 1
    served = alone(saved.folder, left)
    assert served.returncode
    assert "No module named 'transformers'" in served.stderr


def test_a_model_that_does_not_answer_its_example_is_an_error_with_its_traceback(tmp_path: Path):
    with ServingProcess("toy") as serving, pytest.raises(WorkFailedError, match="no model at") as failed:
        serving.serve(tmp_path, {"x": [1.0]})
    assert "Traceback" in str(failed.value)


def test_what_is_loaded_and_not_declared_is_a_requirement_too():
    assert requirements_of([], ["torch", "json", "refsweep"])[-1].startswith("torch==")
    declared = requirements_of(["torchvision"], ["torch", "PIL"])
    assert [line.partition("==")[0] for line in declared] == [*PYFUNC, "torchvision"]


def test_declared_dependencies_are_followed_and_extras_only_where_they_are_asked_for():
    assert {"torchvision", "torch", "pillow", "numpy", "sympy", "mpmath"} <= closure(["torchvision"])
    ours = closure(["refsweep"])
    assert {"ray", "tensorboardx", "psycopg-binary"} <= ours, "of ray[tune] and psycopg[binary]"
    assert not {"mypy", "pytest", "hypothesis"} & ours, "of refsweep[dev]"
    assert closure(["no-such-distribution"]) == {"no-such-distribution"}
