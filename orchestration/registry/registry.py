"""Registers, promotes, rolls back: the best trial of a sweep becomes a version of the model named after its trainable.

A version is an MLflow pyfunc from code (no pickle) with signature, example and explicit requirements (`packaging`). It
carries the package (weights, Config, post-hoc setting) and the wheel of the code that made it. The alias `champion` is
what users load; `previous` is what `rollback` returns to.

MLflow is imported inside functions: it takes two seconds, in which other things can be done, and reads variables that
`make_client` sets.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import tempfile
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...trainables.training.package import Package
from ..ledger.ledger import Ledger
from ..spec.schema import SweepSpec
from ..tracking.client import experiment_id, make_client
from .packaging import model_files, package_trial
from .requirements import ServingProcess

CHAMPION, PREVIOUS = "champion", "previous"


class Registry:
    """The registered models of the MLflow at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def client(self) -> Any:
        """MLflow's client, made when it is first needed."""
        return make_client(self.uri)

    def promote(
        self,
        spec: SweepSpec,
        ledger: Ledger,
        data: str | None,
        number: int | None = None,
        serving: ServingProcess | None = None,
    ) -> dict[str, Any]:
        """Registers a sweep's best trial, or trial `number`, and makes it champion.

        A trial that is promoted again is not registered again. `serving`, a process for the sweep's trainable, saves
        the seconds in which it has imported already. Returns the version as `describe` does, and the version that it
        replaced. Raises InputError when there is no such trial.
        """
        trial = _chosen(ledger, number)
        with serving or ServingProcess(spec.trainable) as process:
            version = self._version_of(spec.trainable, spec.name, trial.number)
            if version is None:
                package = package_trial(spec, trial, data)
                version = self.register(package, ledger.record.run_ids.get(trial.number), data, process)
                name = f"{spec.name}/{trial.number}"
                self.client.set_model_version_tag(spec.trainable, version, "refsweep.trial", name)
        champion = self._alias(spec.trainable, CHAMPION)
        if champion is not None and champion != version:
            self.client.set_registered_model_alias(spec.trainable, PREVIOUS, champion)
        self.client.set_registered_model_alias(spec.trainable, CHAMPION, version)
        who = {"promoted_by": _who(), "promoted_at": datetime.now(UTC).isoformat(timespec="seconds")}
        for key, value in who.items():
            self.client.set_model_version_tag(spec.trainable, version, f"refsweep.{key}", value)
        return {**self.describe(spec.trainable, version), "replaced": champion if champion != version else None}

    def rollback(self, model: str) -> dict[str, Any]:
        """Swaps champion and previous. Raises InputError when either is missing."""
        champion, previous = self._alias(model, CHAMPION), self._alias(model, PREVIOUS)
        if champion is None or previous is None:
            raise InputError(f"model {model!r} has no {PREVIOUS if champion else CHAMPION} version to go back to")
        self.client.set_registered_model_alias(model, CHAMPION, previous)
        self.client.set_registered_model_alias(model, PREVIOUS, champion)
        self.client.set_model_version_tag(model, previous, "refsweep.rolled_back_by", _who())
        return {**self.describe(model, previous), "replaced": champion}

    def models(self) -> list[dict[str, Any]]:
        """Every registered model: its name, number of versions, champion and previous."""
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
        described = [self.describe(model, v.version) for v in self._versions(model)]
        if not described:
            names = ", ".join(m["model"] for m in self.models()) or "none"
            raise InputError(f"no model {model!r} in {self.uri}; there are: {names}")
        return described

    def describe(self, model: str, version: str) -> dict[str, Any]:
        """A version, its aliases and its tags in plain values."""
        stored = self.client.get_model_version(model, version)
        tags = {k.removeprefix("refsweep."): v for k, v in stored.tags.items() if k.startswith("refsweep.")}
        return {
            "model": model,
            "version": int(stored.version),
            "aliases": sorted(self._aliases(model, stored.version)),
            "run_id": stored.run_id,
            **{key: tags.get(key) for key in ("trial", "metrics", "setting", "data", "promoted_by", "promoted_at")},
        }

    def fetch(self, name: str, folder: Path) -> tuple[Package, Path]:
        """Downloads `MODEL` (its champion), `MODEL@ALIAS` or `MODEL/VERSION` into a folder.

        Returns the package and the folder of the MLflow model. Raises InputError with what there is.
        """
        model, version = self.resolve(name)
        import mlflow

        with self._active():
            path = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=str(folder)))
        return Package.read(Store(str(path / "artifacts" / "package"))), path

    def resolve(self, name: str) -> tuple[str, str]:
        """Model and version of a name that `fetch` takes. Raises InputError with what there is."""
        model, _, alias = name.partition("@")
        model, _, version = model.partition("/")
        if version:
            if version not in {v.version for v in self._versions(model)}:
                raise InputError(f"model {model!r} has no version {version!r}")
            return model, version
        at = self._alias(model, alias or CHAMPION)
        if at is None:
            self.versions_of(model)
            raise InputError(f"model {model!r} has no version with the alias {alias or CHAMPION!r}")
        return model, at

    def register(self, package: Package, run: str | None, data: str | None, serving: ServingProcess) -> str:
        """Makes a new version from a package; returns its number.

        Args:
            run: the MLflow run that it belongs to; a new one if None.
            data: where the data is of which the example is a row.
            serving: a process for the package's trainable that has not served yet.
        """
        experiment = experiment_id(self.client, self.uri, package.trainable)
        import mlflow

        with tempfile.TemporaryDirectory() as folder, self._active():
            files = model_files(package, data, Path(folder), serving)
            with (
                contextlib.redirect_stderr(io.StringIO()),
                mlflow.start_run(
                    run_id=run, experiment_id=None if run else experiment, run_name=None if run else "import"
                ),
            ):
                logged = mlflow.pyfunc.log_model(name="model", registered_model_name=package.trainable, **files)
        version = str(logged.registered_model_version)
        for key, value in package.origin.items():
            self.client.set_model_version_tag(package.trainable, version, f"refsweep.{key}", _text(value))
        self.client.set_model_version_tag(package.trainable, version, "refsweep.setting", _text(package.setting))
        return version

    # ----------------------------------------------------------------------------------------------------

    def _version_of(self, model: str, sweep: str, number: int) -> str | None:
        wanted = f"{sweep}/{number}"
        return next((str(v.version) for v in self._versions(model) if v.tags.get("refsweep.trial") == wanted), None)

    def _versions(self, model: str) -> Any:
        listed = self.client.search_model_versions(f"name = '{model}'")
        return sorted(listed, key=lambda v: -int(v.version))

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
        """While open, MLflow's module-level functions use this MLflow."""
        import mlflow

        # MLflow writes both into the environment, from where processes that are started later would take them
        names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
        tracking, registry = (os.environ.get(name) for name in names)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(tracking)
            mlflow.set_registry_uri(registry)
            if registry is None:
                os.environ.pop(names[1], None)


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


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)[:5000]


__all__ = ["CHAMPION", "PREVIOUS", "Registry", "package_trial"]
