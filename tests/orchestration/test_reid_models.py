"""Person re-identification from sweep to champion: stopped and resumed bit for bit, promoted, measured, served."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.evaluate import evaluate
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.registry.registry import Registry
from refsweep.orchestration.search.driver import Driver
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import open_sweep
from refsweep.tests.trainables.tools import Case, case_of
from refsweep.trainables import discovery


@dataclass(frozen=True)
class Family:
    """A trainable on a few people."""

    trainable: str
    fixed: dict[str, Any]

    @property
    def case(self) -> Case:
        return case_of(self.trainable)


FAMILIES = [Family("t2i_reid", {"batch": 8}), Family("mm_reid", {})]


@dataclass
class Swept:
    """A finished sweep."""

    family: Family
    spec: SweepSpec
    ledger: Ledger
    driver: Driver


def spec_of(family: Family, folder: Path, name: str) -> SweepSpec:
    fields = {**family.case.config, **family.fixed}
    fixed = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return make_spec(
        {
            "name": "people",
            "trainable": family.trainable,
            "data": str(folder / "data"),
            "storage": str(folder / name),
            "objective": {"metric": "map", "mode": "max"},
            "search": {"trials": 2, "sampler": "random", "pruner": "none"},
            "fixed": fixed,
        }
    )


class Watched:
    """Keeps the driver, and asks it to stop when the first trial has begun: it writes a checkpoint after its first
    batch."""

    def __init__(self, stop: bool) -> None:
        self.stop = stop

    def attached(self, driver: Driver) -> None:
        self.driver = driver

    def trial_changed(self, number: int) -> None:
        if self.stop:
            self.driver.request_stop()

    def ticked(self) -> None:
        pass


def drive(family: Family, spec: SweepSpec, stop: bool = False) -> Swept:
    """Runs the sweep to its end, or until a trial is asked to stop in its first epoch."""
    sweep = open_sweep(spec)
    watched = Watched(stop)
    sweep.run(InlineBackend(), observers=[watched])
    return Swept(family, spec, sweep.ledger, watched.driver)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.trainable)
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("people")
    assert request.param.case.write_data is not None
    request.param.case.write_data(folder / "data")
    return drive(request.param, spec_of(request.param, folder, "whole"))


def test_a_sweep_that_was_stopped_ends_as_one_that_was_not(swept: Swept):
    folder = Path(swept.spec.storage).parent
    spec = spec_of(swept.family, folder, "stopped")
    stopped = drive(swept.family, spec, stop=True)
    assert [t.state.name for t in stopped.ledger.trials] == ["RUNNING"]
    found = stopped.driver.checkpoints(0).newest()
    assert found is not None
    assert (found.name.epoch, found.name.batch) == (0, 1)
    stopped.ledger.close()
    resumed = drive(swept.family, spec)
    assert facts(resumed) == facts(swept)
    resumed.ledger.close()


def facts(swept: Swept) -> list[Any]:
    found = []
    for trial in swept.ledger.trials:
        newest = swept.driver.checkpoints(trial.number).newest()
        assert newest is not None
        weights = newest.store.read(f"{newest.name}/model.safetensors")
        found.append((trial.state.name, trial.params, trial.values, trial.intermediate_values, weights))
    return found


def test_the_champion_measures_what_the_ledger_says_and_serves(swept: Swept, tmp_path: Path):
    registry = Registry(str(swept.spec.tracking_uri))
    promoted = registry.promote(swept.spec, swept.ledger, swept.spec.data)
    best = swept.ledger.best()
    assert best is not None
    assert promoted["trial"] == f"people/{best.number}"
    name = swept.family.trainable
    package, folder = registry.fetch(name, tmp_path)
    assert evaluate(package, swept.spec.data, "validation")["map"] == pytest.approx(best.values[0], abs=1e-4)
    assert package.setting == pytest.approx(best.user_attrs["setting"])
    example = json.loads((folder / "input_example.json").read_text())
    rows = pd.DataFrame(**example) if "columns" in example else pd.DataFrame(example)
    answer = mlflow.pyfunc.load_model(str(folder)).predict(rows)
    served = discovery.load(name).serve(package).predict({c: rows[c].tolist() for c in rows})
    assert answer["order"].tolist() == served["order"]
    gallery = discovery.load(name).gallery(Store(swept.spec.data), "test")
    assert gallery.num_rows >= len(served["order"][0]) >= 2
