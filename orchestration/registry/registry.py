"""Registers, promotes, rolls back: the best trial of a sweep becomes a version of the model named after its trainable.

A version is an MLflow pyfunc from code (no pickle) with signature, example and explicit requirements; it carries
the package (weights, Config, post-hoc setting) and the wheel of the code that made it. The alias `champion` is
what users load; `previous` is what `rollback` brings back.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import io
import json
import os
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...trainables import coercion, discovery
from ...trainables.training.checkpoints import Checkpoints
from ...trainables.training.loop import Training
from ...trainables.training.package import Package
from ..ledger.ledger import Ledger
from ..spec.schema import SweepSpec
from ..tracking.projector import Projector, make_client
from .wheel import write_wheel

CHAMPION, PREVIOUS = "champion", "previous"
_REQUIRED = (
    *("mlflow", "torch", "torchvision", "open_clip_torch", "safetensors", "numpy", "pyarrow", "pillow", "pandas"),
    *("scipy", "einops", "trackeval"),
)


def package_trial(spec: SweepSpec, trial: FrozenTrial, data: str | None) -> Package:
    """The model of a trial's final epoch. Raises InputError when its checkpoint is gone."""
    module = discovery.load(spec.trainable)
    store = Store(data) if data is not None else None
    config = coercion.make_config(module.Config, trial.user_attrs["config"])
    checkpoints = Checkpoints(Store(spec.storage).child(f"{spec.name}/{trial.number}"))
    training = Training(lambda: module.Task(config, module.open_data(store)), config, store, checkpoints)
    found = training.resume()
    if found is None:
        raise InputError(f"trial {spec.name}/{trial.number} has no checkpoint under {checkpoints.store.uri}")
    with training.evaluated_model() as model:
        last = training.history[-1]
        return Package(
            trainable=spec.trainable,
            config=asdict(config),
            setting=last.setting,
            facts=training.task.facts(),
            origin={
                "sweep": spec.name,
                "trial": trial.number,
                "epoch": last.epoch,
                "params": dict(trial.params),
                "metrics": dict(last.metrics),
                "data": trial.user_attrs.get("data"),
            },
            weights={key: value.clone() for key, value in model.state_dict().items()},
        )


class Registry:
    """The models of one MLflow."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client: Any = make_client(uri)

    def promote(self, spec: SweepSpec, ledger: Ledger, data: str | None, number: int | None = None) -> dict[str, Any]:
        """Registers a sweep's best trial, or the one given, and makes it champion; says what it replaced.

        The same trial promoted again is not registered again. Raises InputError when there is no such trial.
        """
        trial = _chosen(ledger, number)
        version = self._version_of(spec.trainable, spec.name, trial.number) or self._register(spec, ledger, trial, data)
        champion = self._alias(spec.trainable, CHAMPION)
        if champion is not None and champion != version:
            self.client.set_registered_model_alias(spec.trainable, PREVIOUS, champion)
        self.client.set_registered_model_alias(spec.trainable, CHAMPION, version)
        who = {"promoted_by": _who(), "promoted_at": datetime.now(UTC).isoformat(timespec="seconds")}
        for key, value in who.items():
            self.client.set_model_version_tag(spec.trainable, version, f"refsweep.{key}", value)
        return {**self.describe(spec.trainable, version), "replaced": champion if champion != version else None}

    def rollback(self, model: str) -> dict[str, Any]:
        """Swaps champion and previous. Raises InputError when there is no previous."""
        champion, previous = self._alias(model, CHAMPION), self._alias(model, PREVIOUS)
        if champion is None or previous is None:
            raise InputError(f"model {model!r} has no {PREVIOUS if champion else CHAMPION} version to go back to")
        self.client.set_registered_model_alias(model, CHAMPION, previous)
        self.client.set_registered_model_alias(model, PREVIOUS, champion)
        self.client.set_model_version_tag(model, previous, "refsweep.rolled_back_by", _who())
        return {**self.describe(model, previous), "replaced": champion}

    def models(self) -> list[dict[str, Any]]:
        """Every registered model, in short."""
        return [
            {
                "model": m.name,
                "versions": len(self._versions(m.name)),
                **{a: m.aliases.get(a) for a in (CHAMPION, PREVIOUS)},
            }
            for m in self.client.search_registered_models()
        ]

    def versions_of(self, model: str) -> list[dict[str, Any]]:
        """Every version of a model, newest first. Raises InputError when there is no such model."""
        found = [self.describe(model, v.version) for v in self._versions(model)]
        if not found:
            names = ", ".join(m["model"] for m in self.models()) or "none"
            raise InputError(f"no model {model!r} in {self.uri}; there are: {names}")
        return found

    def describe(self, model: str, version: str) -> dict[str, Any]:
        """One version in plain values."""
        found = self.client.get_model_version(model, version)
        tags = {k.removeprefix("refsweep."): v for k, v in found.tags.items() if k.startswith("refsweep.")}
        return {
            "model": model,
            "version": int(found.version),
            "aliases": sorted(self._aliases(model, found.version)),
            "run_id": found.run_id,
            **{key: tags.get(key) for key in ("trial", "metrics", "setting", "data", "promoted_by", "promoted_at")},
        }

    def fetch(self, name: str, folder: Path) -> tuple[Package, Path]:
        """(package, folder of the MLflow model) of `MODEL`, `MODEL@ALIAS` or `MODEL/VERSION`; MODEL alone is its
        champion."""
        model, version = self.resolve(name)
        import mlflow

        with self._active():
            path = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=str(folder)))
        return Package.read(Store(str(path / "artifacts" / "package"))), path

    def resolve(self, name: str) -> tuple[str, str]:
        """Model and version of a name. Raises InputError with what there is."""
        model, _, alias = name.partition("@")
        model, _, version = model.partition("/")
        if version:
            if version not in {v.version for v in self._versions(model)}:
                raise InputError(f"model {model!r} has no version {version!r}")
            return model, version
        found = self._alias(model, alias or CHAMPION)
        if found is None:
            self.versions_of(model)
            raise InputError(f"model {model!r} has no version with the alias {alias or CHAMPION!r}")
        return model, found

    def register(self, package: Package, run: str | None, data: str | None) -> str:
        """A new version from a package; its number."""
        import mlflow

        module = discovery.load(package.trainable)
        with tempfile.TemporaryDirectory() as folder, self._active():
            package.write(Store(f"{folder}/package"))
            (Path(folder) / "wheel").mkdir()
            write_wheel(Path(folder) / "wheel")
            example, signature = _signature(module, package, data)
            experiment = Projector.experiment(self.client, self.uri, package.trainable)
            with (
                contextlib.redirect_stderr(io.StringIO()),
                mlflow.start_run(
                    run_id=run, experiment_id=None if run else experiment, run_name=None if run else "import"
                ),
            ):
                made = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(Path(__file__).parent / "pyfunc.py"),
                    artifacts={"package": f"{folder}/package", "wheel": f"{folder}/wheel"},
                    signature=signature,
                    input_example=example,
                    pip_requirements=[f"{n}=={importlib.metadata.version(n)}" for n in _REQUIRED],
                    registered_model_name=package.trainable,
                )
        version = str(made.registered_model_version)
        for key, value in package.origin.items():
            self.client.set_model_version_tag(package.trainable, version, f"refsweep.{key}", _text(value))
        self.client.set_model_version_tag(package.trainable, version, "refsweep.setting", _text(package.setting))
        return version

    # ----------------------------------------------------------------------------------------------------

    def _register(self, spec: SweepSpec, ledger: Ledger, trial: FrozenTrial, data: str | None) -> str:
        package = package_trial(spec, trial, data)
        run = ledger.run_id(trial.number)
        version = self.register(package, run, data)
        self.client.set_model_version_tag(spec.trainable, version, "refsweep.trial", f"{spec.name}/{trial.number}")
        return version

    def _version_of(self, model: str, sweep: str, number: int) -> str | None:
        wanted = f"{sweep}/{number}"
        return next((str(v.version) for v in self._versions(model) if v.tags.get("refsweep.trial") == wanted), None)

    def _versions(self, model: str) -> Any:
        found = self.client.search_model_versions(f"name = '{model}'")
        return sorted(found, key=lambda v: -int(v.version))

    def _alias(self, model: str, alias: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(model, alias).version)
        except MlflowException:
            return None

    def _aliases(self, model: str, version: str) -> list[str]:
        aliases = self.client.get_registered_model(model).aliases
        return [alias for alias, at in aliases.items() if str(at) == str(version)]

    @contextlib.contextmanager
    def _active(self) -> Any:
        """MLflow's module-level calls go to this MLflow."""
        import mlflow

        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before[0])
            mlflow.set_registry_uri(before[1])


def _chosen(ledger: Ledger, number: int | None) -> FrozenTrial:
    if number is None:
        best = ledger.best()
        if best is None:
            raise InputError(f"sweep {ledger.sweep!r} has no completed trial to promote")
        return best
    done = {t.number: t for t in ledger.trials if t.state.name == "COMPLETE"}
    if number not in done:
        raise InputError(f"trial must be a completed one ({', '.join(map(str, done)) or 'none'}), got {number}")
    return done[number]


def _signature(module: Any, package: Package, data: str | None) -> tuple[pd.DataFrame, Any]:
    from mlflow.models import infer_signature

    config = coercion.make_config(module.Config, package.config)
    example = pd.DataFrame(module.example(module.open_data(Store(data) if data else None), config))
    answer = pd.DataFrame(module.serve(package).predict({c: example[c].tolist() for c in example}))
    return example, infer_signature(example, answer)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)[:5000]


__all__ = ["CHAMPION", "PREVIOUS", "Registry", "package_trial"]
