"""From a trial to the files of a registered version: the package, an example, the signature, the requirements."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...trainables import coercion, discovery
from ...trainables.training.checkpoints import MANIFEST, MODEL, STATE, Checkpoint, Checkpoints, Name
from ...trainables.training.loop import Training
from ...trainables.training.package import Package
from ..ledger.measured import manifest_digest
from ..ledger.records import TrialRecord
from ..spec.folders import trial_folder
from ..spec.schema import SweepSpec
from .digests import ARTIFACTS, DIGESTS, digests_of, sha256
from .requirements import ServingProcess
from .wheel import write_wheel


def package_trial(spec: SweepSpec, trial: FrozenTrial, data: str | None) -> Package:
    """The model that a trial's value was measured with; `data` is where the sweep's data is.

    Raises InputError when that checkpoint is no longer there, bit for bit.
    """
    record, module = TrialRecord.of(trial), discovery.load(spec.trainable)
    store = Store(data) if data is not None else None
    config = coercion.make_config(module.Config, record.config)
    checkpoint = measured_checkpoint(spec, trial)
    training = Training(lambda: module.Task(config, module.open_data(store)), config, store, _Only(checkpoint))
    training.resume()
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
                "data": record.data_fingerprint,
            },
            weights={key: value.clone() for key, value in model.state_dict().items()},
        )


def measured_checkpoint(spec: SweepSpec, trial: FrozenTrial) -> Checkpoint:
    """The checkpoint that a finished trial's value was measured with.

    Raises InputError where it is missing or was changed. Of a trial that recorded no name, since it ended under an
    earlier version, it is the newest one, if that is of the recorded epoch.
    """
    record, checkpoints = TrialRecord.of(trial), Checkpoints(trial_folder(spec, trial.number))
    who = f"trial {spec.name}/{trial.number} is not promoted"
    if record.checkpoint_name is None:
        found = checkpoints.newest()
        if found is None:
            raise InputError(f"{who}: it has no checkpoint under {checkpoints.store.uri}")
        epoch = str(found.name).rpartition(".")[0]
        if epoch != record.checkpoint:
            raise InputError(f"{who}: its checkpoint {record.checkpoint} is missing or damaged, the newest is {epoch}")
    else:
        found = _recorded(checkpoints, record, who)
    measured = found.history[-1]["metrics"] if found.history else {}
    for objective, value in zip(spec.objectives, trial.values or (), strict=True):
        there = measured.get(objective.metric)
        if there is None or not math.isclose(there, value, rel_tol=1e-12):
            name = f"{objective.metric} {there} at {checkpoints.store.uri}/{found.name}"
            raise InputError(f"{who}: its checkpoint is not the one that was measured, {name}, {value} in the ledger")
    return found


def _recorded(checkpoints: Checkpoints, record: TrialRecord, who: str) -> Checkpoint:
    """The checkpoint whose name and digest a trial has recorded. Raises InputError."""
    name = Name.parse(str(record.checkpoint_name))
    place = f"{checkpoints.store.uri}/{record.checkpoint_name}"
    if name is None or not checkpoints.store.exists(f"{name}/{MANIFEST}"):
        raise InputError(f"{who}: the checkpoint that was measured is missing: {place}")
    found = checkpoints.open(name, verify=False)
    if found is None or manifest_digest(found) != record.checkpoint_digest:
        raise InputError(f"{who}: {place}/{MANIFEST} is not the one that was recorded when the trial was measured")
    whole = checkpoints.open(name)
    if whole is None:
        raise InputError(f"{who}: {MODEL} or {STATE} in {place} is missing or not what was measured")
    return whole


class _Only(Checkpoints):
    """A trial's checkpoints of which but one is seen."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.store)
        self._checkpoint = checkpoint

    def newest(self, *, verify: bool = True) -> Checkpoint:
        """That one."""
        return self._checkpoint


def model_files(package: Package, data: str | None, folder: Path, serving: ServingProcess) -> dict[str, Any]:
    """Arguments of `mlflow.pyfunc.log_model` and `save_model`; the files that they name are written into `folder`.

    The example is a row of the data at `data`. `serving` answers it, which gives the signature and the requirements.
    """
    from mlflow.models import infer_signature  # here, since MLflow takes two seconds to import

    module = discovery.load(package.trainable)
    config = coercion.make_config(module.Config, package.config)
    example = module.example(module.open_data(Store(data) if data else None), config)
    package.write(Store(str(folder / "package")))
    (folder / "wheel").mkdir()
    write_wheel(folder / "wheel")
    served = serving.serve(folder, example)
    rows = pd.DataFrame(example)
    code = Path(__file__).with_name("pyfunc.py")
    parts = ("package", "wheel")  # each an artifact
    files = {f"{ARTIFACTS}/{p}/{n}": digest for p in parts for n, digest in digests_of(folder / p).items()}
    return {
        "python_model": str(code),
        "artifacts": {part: str(folder / part) for part in parts},
        "metadata": {DIGESTS: {**files, code.name: sha256(code)}},  # which that code compares before it loads
        "signature": infer_signature(rows, pd.DataFrame(served.answer)),
        "input_example": rows,
        "pip_requirements": list(served.requirements),
    }
