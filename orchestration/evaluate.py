"""Measures trained models on a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch

from ..datasets.problems import InputError
from ..datasets.storage.store import Store
from ..datasets.stream import Arrays, cut, default_workers, stream
from ..trainables import coercion, discovery
from ..trainables.contract import Task
from ..trainables.training.package import Package


def evaluate(package: Package, data: str, split: str, tracks: str | None = None) -> dict[str, float]:
    """A package's figures on a split of a data set (`none`: no data), under the post-hoc setting that travels with it.
    `tracks` is another folder of tracker output than the one it was trained with.

    Raises InputError for data, a split or tracks that can't be used.
    """
    package = with_tracks(package, tracks)
    module = discovery.load(package.trainable)
    config = coercion.make_packaged_config(module.Config, package.config)
    store = Store(data) if data != "none" else None
    task = module.Task(config, module.open_data(store))
    package.load_into(task.model)
    task.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    task.restore_facts(package.facts)
    parts = cut(evaluation_plan(task, split, config.seed), task.batch_rows(task.eval_splits[-1]), 0, split)
    predict = task.predictor()
    predicted: list[Arrays] = []
    with torch.no_grad():
        for _, arrays in stream(parts, task.read, store or Store("."), executor="threads", workers=default_workers()):
            predicted.append(predict(arrays))
    names = predicted[0] if predicted else {}
    predictions = {name: np.concatenate([batch[name] for batch in predicted]) for name in names}
    return dict(task.score_with(split, predictions, package.setting))


def evaluation_plan(task: Task, split: str, seed: int) -> pa.Table:
    """The rows of an evaluation of a split: of `train` too, where the task has a plan for that beside training's."""
    of_any: Callable[[str], pa.Table] | None = getattr(task, "evaluation_plan", None)
    return of_any(split) if of_any is not None else task.plan(split, 0, seed)


def with_tracks(package: Package, folder: str | None) -> Package:
    """A package that reads tracker output from another folder of the data; itself for None. Raises InputError for a
    model that reads no tracks."""
    if folder is None:
        return package
    if "tracks" not in {field.name for field in dataclasses.fields(discovery.load_config(package.trainable))}:
        having = [n for n in discovery.names() if hasattr(discovery.load_config(n), "tracks")]
        raise InputError(f"tracks need a model that reads them: {', '.join(having) or 'none'}, got {package.trainable}")
    return dataclasses.replace(package, config={**package.config, "tracks": folder})
