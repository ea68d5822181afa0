"""Registers, promotes, rolls back: the best trial of a sweep becomes a version of the model named after its trainable.

A version is an MLflow pyfunc from code (no pickle) with signature, example and explicit requirements (`packaging`). It
carries the package (weights, Config, post-hoc setting) and the wheel of the code that made it. Its tags say whose it is
(`identity`) and what its files are (`digests`). The alias `champion` is what users load (`champion`); `previous` is
what `rollback` returns to.

Every write goes through `Registry._write`; tests crash there. MLflow is imported inside functions: it takes two
seconds, in which other things can be done, and reads variables that `make_client` sets.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...trainables.training.package import Package
from ..ledger.ledger import Ledger
from ..spec.errors import WorkFailedError
from ..spec.schema import SweepSpec
from ..tracking.client import experiment_id, make_client
from .catalogue import PREVIOUS, Registered, Unless, names, plain_errors
from .champion import Champion
from .digests import ARTIFACTS, DIGESTS, check, digests_of
from .history import Kind
from .identity import TrialIdentity
from .names import CHAMPION, ModelName, UnknownModelError
from .packaging import model_files, package_trial
from .requirements import ServingProcess
from .runs import run_of

_MLFLOWS = threading.RLock()  # held while MLflow's module-level functions are set to one MLflow


class Registry:
    """The registered models of the MLflow at `uri`. What MLflow refuses or can't answer is a WorkFailedError."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def _write(self, what: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The only door to the registry for writing."""
        return what(*arguments, **named)

    @cached_property
    def client(self) -> Any:
        """MLflow's client, made when it is first needed."""
        return self._write(make_client, self.uri)

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
        replaced. Raises InputError when there is no such trial, or what it was measured with is not there any more;
        WorkFailedError when another process makes another version champion at the same time.
        """
        trial = _chosen(ledger, number)
        model = spec.trainable
        with plain_errors(), serving or ServingProcess(model) as process:
            champion = self._champion(model)
            self._experiment(model)
            run = run_of(self.client, self.uri, spec, ledger, trial.number)
            identity = TrialIdentity.of(ledger, trial, run)
            version = identity.version_in(champion.mend().versions)
            if version is None:
                version = self.register(package_trial(spec, trial, data), run, data, process, identity)
            replaced = champion.move(version, Kind.PROMOTE, sweep_id=identity.sweep_id, term=identity.term)
            return {**_described(champion.read(), version), "replaced": replaced}

    def rollback(self, model: str, to: int | None = None) -> dict[str, Any]:
        """Makes the champion before the present one champion again, one further back each time, or version `to`.

        Raises InputError when there is no such version.
        """
        with plain_errors():
            champion = self._champion(model)
            stands = champion.mend()
            self._refuse_unknown(stands)
            wanted = str(to) if to is not None else stands.before
            if wanted is None:
                raise InputError(f"model {model!r} has no {PREVIOUS} version to go back to")
            stands.version(wanted)
            replaced = champion.move(wanted, Kind.ROLLBACK)
            return {**_described(champion.read(), wanted), "replaced": replaced}

    def models(self) -> list[dict[str, Any]]:
        """Every registered model: its name, number of versions, champion and previous."""
        with plain_errors():
            standing = [self._champion(name).looked_at() for name in names(self.client)]
        return [
            {"model": m.name, "versions": len(m.versions), **{a: m.aliases.get(a) for a in (CHAMPION, PREVIOUS)}}
            for m in standing
        ]

    def versions_of(self, model: str) -> list[dict[str, Any]]:
        """Every version of a model, newest first. Raises InputError when there is no such model."""
        with plain_errors():
            stands = self._champion(model).looked_at()
            self._refuse_unknown(stands)
        return [_described(stands, str(version.version)) for version in stands.versions]

    def describe(self, model: str, version: str) -> dict[str, Any]:
        """A version, its aliases and its tags in plain values. Raises InputError where there is none."""
        with plain_errors():
            return _described(self._champion(model).read(), str(version))

    def fetch(self, name: str, folder: Path) -> tuple[Package, Path]:
        """Downloads `MODEL` (its champion), `MODEL@ALIAS` or `MODEL/VERSION` into a folder, in place of what is there.

        Returns the package and the folder of the MLflow model. Raises InputError with what there is, and where a file
        is not what was registered.
        """
        with plain_errors():
            model, version = self.resolve(name)
            tags = self._champion(model).read().version(version).tags
            import mlflow

            if (folder / "MLmodel").is_file():  # an earlier download
                shutil.rmtree(folder / ARTIFACTS, ignore_errors=True)
            with self._active():
                path = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=str(folder)))
        check(path, tags.get(DIGESTS), f"model {model} version {version}")
        return Package.read(Store(str(path / "artifacts" / "package"))), path

    def resolve(self, name: str) -> tuple[str, str]:
        """Model and version of a name that `fetch` takes. Raises InputError with what there is."""
        wanted = ModelName.parse(name)
        with plain_errors():
            stands = self._champion(wanted.model).looked_at()
            self._refuse_unknown(stands)
        if wanted.version is not None:
            return wanted.model, str(stands.version(wanted.version).version)
        if wanted.alias.lower() == "latest":  # as MLflow has it
            return wanted.model, str(stands.versions[0].version)
        if wanted.alias not in stands.aliases:
            raise UnknownModelError(f"model {wanted.model!r} has no version with the alias {wanted.alias!r}")
        return wanted.model, stands.aliases[wanted.alias]

    def register(
        self,
        package: Package,
        run: str | None,
        data: str | None,
        serving: ServingProcess,
        identity: TrialIdentity | None = None,
    ) -> str:
        """Makes a new version from a package; returns its number.

        Args:
            run: the MLflow run that it belongs to; a new one if None.
            data: where the data is of which the example is a row.
            serving: a process for the package's trainable that has not served yet.
            identity: the trial that it is of. Where another process has registered the same one meanwhile, that
                version counts.
        """
        with tempfile.TemporaryDirectory() as folder, plain_errors():
            files = model_files(package, data, Path(folder), serving)
            logged, digests = self._log_model(package.trainable, run, files)
        tags = {f"refsweep.{key}": _text(value) for key, value in package.origin.items()}
        tags |= {"refsweep.setting": _text(package.setting), DIGESTS: json.dumps(digests)}
        tags |= identity.tags() if identity else {}
        return self._make_version(package.trainable, logged, tags, identity)

    # ----------------------------------------------------------------------------------------------------

    def _champion(self, model: str) -> Champion:
        return Champion(self.client, self._write, model)

    def _experiment(self, name: str) -> str:
        with Unless("RESOURCE_ALREADY_EXISTS"):
            return experiment_id(self.client, self.uri, name, self._write)
        return experiment_id(self.client, self.uri, name, self._write)  # another process has made it meanwhile

    def _refuse_unknown(self, stands: Registered) -> None:
        if not stands.versions:
            there = names(self.client)
            if stands.name in there:
                raise UnknownModelError(f"model {stands.name!r} has no version")
            uri = re.sub("//[^/@]*@", "//", self.uri)  # without user and password
            raise UnknownModelError(f"no model {stands.name!r} in {uri}; there are: {', '.join(there) or 'none'}")

    def _log_model(self, trainable: str, run: str | None, files: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
        """Stores a model's files in MLflow; what MLflow calls the model, and digests of all its files as they are
        stored."""
        experiment = self._experiment(trainable)
        import mlflow

        def log_model() -> Any:
            new = None if run else "import"
            with mlflow.start_run(run_id=run, experiment_id=None if run else experiment, run_name=new):
                return mlflow.pyfunc.log_model(name="model", **files)

        with self._active(), contextlib.redirect_stderr(io.StringIO()):
            logged = self._write(log_model)
            with tempfile.TemporaryDirectory() as copy:
                stored = Path(mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=copy))
                digests = digests_of(stored)
        if files["metadata"][DIGESTS].items() - digests.items():
            raise WorkFailedError("MLflow has not stored the model as it was sent")
        return logged, digests

    def _make_version(self, model: str, logged: Any, tags: Mapping[str, str], identity: TrialIdentity | None) -> str:
        """A version of a stored model, which is made with its tags in one write."""
        champion = self._champion(model)
        with Unless("RESOURCE_ALREADY_EXISTS"):
            self._write(self.client.create_registered_model, model)
        known = identity.version_in(champion.read().versions) if identity else None
        if known is not None:
            return known
        with self._active():  # MLflow looks the model up where its module-level functions do
            source = f"models:/{logged.model_id}"
            made = self._write(
                self.client.create_model_version,
                model,
                source,
                run_id=logged.run_id,
                tags=dict(tags),
                model_id=logged.model_id,
            )
        own = str(made.version)
        return (identity.version_in(champion.mend().versions) if identity else None) or own

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """While open, MLflow's module-level functions use this MLflow."""
        import mlflow

        with _MLFLOWS:
            # MLflow writes both into the environment, from where processes that are started later would take them
            variables = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
            tracking, registry = (os.environ.get(name) for name in variables)
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(tracking)
                mlflow.set_registry_uri(registry)
                if registry is None:
                    os.environ.pop(variables[1], None)


def _described(stands: Registered, number: str) -> dict[str, Any]:
    """A version of a model, its aliases and its tags in plain values."""
    stored = stands.version(number)
    tags = {k.removeprefix("refsweep."): v for k, v in stored.tags.items() if k.startswith("refsweep.")}
    shown = ("trial", "metrics", "setting", "data", "promoted_by", "promoted_at", "sweep_id")
    return {
        "model": stands.name,
        "version": int(stored.version),
        "aliases": sorted(alias for alias, at in stands.aliases.items() if at == number),
        "run_id": stored.run_id,
        **{key: tags.get(key) for key in shown},
    }


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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)[:5000]
