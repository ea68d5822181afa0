"""A registry on a real MLflow whose versions have no files: those take seconds each, and other tests look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.registry import registry as registry_module
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
