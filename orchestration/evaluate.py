"""Measures trained models on a data set."""

from __future__ import annotations

import numpy as np
import torch

from ..datasets.storage.store import Store
from ..datasets.stream import Arrays, cut, default_workers, stream
from ..trainables import coercion, discovery
from ..trainables.training.package import Package


def evaluate(package: Package, data: str, split: str) -> dict[str, float]:
    """A package's figures on a split of a data set (`none`: no data), under the post-hoc setting that travels with it.

    Raises InputError for data or a split that can't be used.
    """
    module = discovery.load(package.trainable)
    config = coercion.make_packaged_config(module.Config, package.config)
    store = Store(data) if data != "none" else None
    task = module.Task(config, module.open_data(store))
    package.load_into(task.model)
    task.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    task.restore_facts(package.facts)
    parts = cut(task.plan(split, 0, config.seed), task.batch_rows(split), 0, split)
    predict = task.predictor()
    predicted: list[Arrays] = []
    with torch.no_grad():
        for _, arrays in stream(parts, task.read, store or Store("."), executor="threads", workers=default_workers()):
            predicted.append(predict(arrays))
    names = predicted[0] if predicted else {}
    predictions = {name: np.concatenate([batch[name] for batch in predicted]) for name in names}
    return dict(task.score_with(split, predictions, package.setting))
