"""A trainable of no cost with a known optimum, for testing and measuring the machinery.

`loss` after epoch e is (x - 1)^2 + (y + 2)^2 + 4 / 2^e, plus `noise` times a standard normal number that only
(seed, e) decide. Its one weight follows the same parabola by gradient descent, so that a checkpoint holds
something that can go wrong.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ...datasets.problems import InputError
from ...datasets.storage.store import Store
from ...datasets.stream import Arrays
from ..contract import Predictor, Scores
from .config import METRICS, Config
from .data import check_data, open_data
from .serve import example, serve

__all__ = ["METRICS", "OPTIMUM", "Config", "Task", "check_data", "example", "open_data", "serve"]

SPLITS = ("train", "calibration", "validation", "test")
OPTIMUM = {"x": 1.0, "y": -2.0}


class Task:
    """The parabola under one Config."""

    eval_splits = ("validation",)
    loss_is_sum = False
    has_unused_parameters = False

    def __init__(self, config: Config, _: None = None) -> None:
        self.config = config
        self.model = nn.Linear(1, 1, bias=False)
        self.read = read
        if config.fail_with == "setup" and config.fail_at_epoch is not None:
            _fail(config, config.fail_at_epoch)

    def plan(self, split: str, epoch: int, seed: int) -> pa.Table:
        """Eight rows of noise to train on, one to evaluate. Raises InputError with the choices for another split."""
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        rng = np.random.default_rng((seed, epoch, split == "train"))
        rows = 8 if split == "train" else 1
        return pa.table({"epoch": np.full(rows, epoch + 1), "noise": rng.standard_normal(rows)})

    def evaluation_plan(self, split: str) -> pa.Table:
        """The one row of any split; all have the same."""
        return self.plan("validation" if split == "train" else split, 0, self.config.seed)

    def batch_rows(self, split: str) -> int:
        """Rows of a plan in one batch."""
        return self.config.batch

    def eval_shards(self, split: str) -> list[int]:
        """The one row."""
        return [1]

    def compiled(self) -> list[nn.Module]:
        """None: the model is one weight."""
        return []

    def param_groups(self) -> list[dict[str, Any]]:
        """The weight, with the Config's learning rate."""
        return [{"params": list(self.model.parameters())}]

    def losses(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """`parabola`: its height at the weight, with noise in its slope."""
        epoch = int(batch["epoch"][0])
        if self.config.fail_with != "setup":
            _fail(self.config, epoch)
        time.sleep(self.config.seconds_per_epoch * len(batch["epoch"]) / 8)
        weight = self.model.weight[0, 0]
        loss = (weight - self.config.x) ** 2 + 0.1 * (batch["noise"].float() * weight).mean()
        if epoch == self.config.nan_at_epoch:
            loss = loss * torch.nan
        return {"parabola": loss}

    def facts(self) -> dict[str, Any]:
        """None: the weight is all there is."""
        return {}

    def restore_facts(self, _: Mapping[str, Any]) -> None:
        """Takes nothing: there are no facts."""

    def predictor(self) -> Predictor:
        """Passes the rows on."""
        return lambda batch: {"epoch": batch["epoch"], "noise": batch["noise"]}

    def score_with(self, split: str, predictions: Arrays, setting: Mapping[str, float]) -> dict[str, float]:
        """The same figures as `evaluate`."""
        return dict(self.evaluate({split: predictions}, setting).metrics)

    def evaluate(self, predictions: Mapping[str, Arrays], setting: Mapping[str, float] | None = None) -> Scores:
        """`loss`, and `height`: minus its distance to the optimum, for sweeps with several objectives."""
        c = self.config
        row = list(predictions.values())[-1]
        epoch, noise = int(row["epoch"][0]), float(row["noise"][0])
        distance = (c.x - OPTIMUM["x"]) ** 2 + (c.y - OPTIMUM["y"]) ** 2
        metrics = {"loss": distance + 4 / 2**epoch + c.noise * noise, "height": -abs(c.x) - abs(c.y)}
        return Scores(metrics, dict(setting or {}))


def read(rows: pa.Table, _: Store) -> Arrays:
    """The columns as they are."""
    return {name: rows.column(name).to_numpy() for name in rows.column_names}


def _fail(config: Config, epoch: int) -> None:
    """Fails as `fail_with` says, in the epoch it says."""
    if epoch != config.fail_at_epoch:
        return
    if config.fail_once is not None:
        failed_before = Path(config.fail_once)
        if failed_before.exists():
            return
        failed_before.touch()
    if config.fail_with == "oom":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if config.fail_with == "disk":
        raise OSError(28, "No space left on device")
    if config.fail_with == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fail_with == "hang":
        time.sleep(3600)
    raise RuntimeError(f"asked to fail in epoch {epoch}")
