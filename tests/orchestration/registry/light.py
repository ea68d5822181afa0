"""A registry on a real MLflow whose versions have no files: those take seconds each, and other tests look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.registry import catalogue
from refsweep.orchestration.registry import registry as registry_module
from refsweep.orchestration.registry.history import Move, moves_of
from refsweep.orchestration.registry.registry import Registry
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import find_sweep
from refsweep.tests.help import driver_of


@contextlib.contextmanager
def without_files() -> Iterator[pytest.MonkeyPatch]:
    """While open, a version is stored without its files."""

    def log_model(self: Registry, trainable: str, run: str | None, files: Mapping[str, Any]) -> tuple[Any, Any]:
        stored = self._write(
            self.client.create_logged_model, self._experiment(trainable), name="model", source_run_id=run
        )
        return SimpleNamespace(model_id=stored.model_id, run_id=run), {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_module, "model_files", lambda *_: {})
        patch.setattr(registry_module, "ServingProcess", lambda _: contextlib.nullcontext())
        patch.setattr(Registry, "_log_model", log_model)
        yield patch


@dataclass
class Place:
    """A finished sweep `t` and the registry of its MLflow."""

    spec: SweepSpec
    ledger: Ledger
    registry: Registry

    def promote(self, number: int | None = None) -> dict[str, Any]:
        return self.registry.promote(self.spec, self.ledger, None, number)

    @property
    def aliases(self) -> dict[str, str]:
        return {k: str(v) for k, v in self.registry.client.get_registered_model("toy").aliases.items()}

    @property
    def moves(self) -> list[Move]:
        return moves_of(self.registry.client.get_registered_model("toy").tags)


def backwards_and_forwards(place: Place) -> None:
    """What must hold on every kind of MLflow: promotion, rollback, names, deletion, pages."""
    assert [place.promote(number)["version"] for number in (0, 1, 2)] == [1, 2, 3]
    assert place.promote(1)["replaced"] == "3"
    assert place.aliases == {"champion": "2", "previous": "3"}
    assert [place.registry.rollback("toy")["version"] for _ in range(3)] == [3, 2, 1]
    assert place.aliases == {"champion": "1"}
    assert place.registry.rollback("toy", 3)["replaced"] == "1"
    names = ("toy", "toy@previous", "toy/2", "models:/toy/2", "toy@latest")
    assert [place.registry.resolve(name)[1] for name in names] == ["3", "1", "2", "2", "3"]
    place.registry.client.delete_model_version("toy", "3")
    assert place.registry.rollback("toy")["version"] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "PAGE", 1)
        assert [v["version"] for v in place.registry.versions_of("toy")] == [2, 1]
    with pytest.raises(InputError, match=r"no model 'gpt' in .*; there are: toy"):
        place.registry.resolve("gpt")
    tags = place.registry.client.get_model_version("toy", "1").tags
    assert (tags["refsweep.sweep_id"], tags["refsweep.trial"]) == (place.ledger.record.id, "t/0")


def swept(
    storage: Path, *, epochs: int = 2, trials: int = 3, synced: bool = False, **places: str
) -> tuple[SweepSpec, Ledger]:
    """A finished sweep `t` of toy trials, sent to MLflow if `synced`, and its ledger."""
    spec = make_spec(
        {
            "name": "t",
            "trainable": "toy",
            "data": "none",
            "storage": str(storage),
            "objective": {"metric": "loss", "mode": "min"},
            "search": {"trials": trials, "sampler": "random", "pruner": "none"},
            "fixed": {"epochs": epochs},
            **places,
        }
    )
    driver = driver_of(spec)
    InlineBackend().run(driver)
    driver.ledger.close()
    if synced:
        with find_sweep(spec.ledger_url, spec.name) as sweep:
            sweep.sync()
    return spec, Ledger.open(spec.ledger_url, spec.name)
