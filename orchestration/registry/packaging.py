"""From a trial to the files of a registered version: the package, an example, the signature, the requirements."""

from __future__ import annotations

from dataclasses import asdict
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
from ..ledger.records import TrialRecord
from ..spec.folders import trial_folder
from ..spec.schema import SweepSpec
from .requirements import ServingProcess
from .wheel import write_wheel


def package_trial(spec: SweepSpec, trial: FrozenTrial, data: str | None) -> Package:
    """The model of a trial's final epoch; `data` is where the sweep's data is.

    Raises InputError when the trial has no checkpoint any more.
    """
    record, module = TrialRecord.of(trial), discovery.load(spec.trainable)
    store = Store(data) if data is not None else None
    config = coercion.make_config(module.Config, record.config)
    checkpoints = Checkpoints(trial_folder(spec, trial.number))
    training = Training(lambda: module.Task(config, module.open_data(store)), config, store, checkpoints)
    if training.resume() is None:
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
                "data": record.data_fingerprint,
            },
            weights={key: value.clone() for key, value in model.state_dict().items()},
        )


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
    return {
        "python_model": str(Path(__file__).with_name("pyfunc.py")),
        "artifacts": {"package": str(folder / "package"), "wheel": str(folder / "wheel")},
        "signature": infer_signature(rows, pd.DataFrame(served.answer)),
        "input_example": rows,
        "pip_requirements": list(served.requirements),
    }
