"""The schedule `plateau` decays when torch's does, watches what it is told to, and goes on from checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.trainables.training.line import BATCHES, LineTask, config, moves
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Training
from refsweep.trainables.training.plateau import Plateau
from refsweep.trainables.training.schedules import LrSchedule, Position, lr_factor
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_decays_when_torchs_does(mode: Literal["max", "min"], patience: int):
    rng = np.random.default_rng(patience)
    figures = [*rng.uniform(0.5, 1.5, 60), math.nan, 1.0, 1.00005, math.inf, 1.0, 0.0, 0.0, *rng.uniform(1, 1.001, 60)]
    optimiser = SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = ReduceLROnPlateau(optimiser, mode, 0.999, patience=patience, eps=0.0)
    ours = Plateau()
    for figure in figures:
        theirs.step(figure)
        ours = ours.after(figure, mode, patience)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.999**ours.decays)
    assert ours.decays > 5


def test_a_figure_below_0_that_stands_still_is_a_plateau():
    """torch takes -1 for better than -1: it compares with the best plus a share of it, which is below it."""
    plateau = Plateau()
    for _ in range(4):
        plateau = plateau.after(-1.0, "max", 1)
    assert (plateau.best, plateau.decays) == (-1.0, 1)
    assert plateau.after(-0.9, "max", 1).best == -0.9


def test_plateau_goes_down_to_the_end_factor():
    schedule = LrSchedule.of(config(schedule="plateau", patience=0, lr_end_factor=0.05))
    factors = [lr_factor(schedule, Position(3, 0, BATCHES), decays) for decays in range(4)]
    assert factors == pytest.approx([1, 0.1, 0.05, 0.05])


def test_plateau_watches_another_figure_where_it_is_told_to():
    def watched(objective: tuple[str, str] | None, **fields: Any) -> tuple[Training, list[Any]]:
        c = config(schedule="plateau", patience=0, **fields)
        training = Training(lambda: LineTask(c), c, None, best=objective)
        list(training.run())
        return training, training.state()["plateau"]

    assert watched(("figure", "max"))[1] == [[3.0, 0, 3]], "3.0001 is no better than 3"
    assert watched(("train_loss", "max"), plateau_metric="figure")[1] == [[3.0, 0, 3]]
    training, state = watched(("figure", "max"), plateau_metric="train_loss", plateau_mode="min", evaluate_every=4)
    expected = Plateau()
    for result in training.history:
        expected = expected.after(result.metrics["train_loss"], "min", 0)
    assert state == [list(expected)]
    assert expected.best != 3.0


def test_plateau_needs_a_figure_that_is_measured():
    c = config(schedule="plateau", patience=0)
    with pytest.raises(InputError, match="plateau_metric must be given with schedule plateau"):
        moves(c)
    with pytest.raises(InputError, match="plateau_metric must be one of figure, train_loss, train_square, got 'hota'"):
        moves(c, objective=("hota", "max"))


def test_plateaus_state_is_in_the_checkpoint_and_only_there(tmp_path: Path):
    assert "plateau" not in Training(lambda: LineTask(config()), config(), None).state()
    c = config(schedule="plateau", patience=0)
    checkpoints = Checkpoints(Store(str(tmp_path)))
    training = Training(lambda: LineTask(c), c, None, checkpoints, best=("figure", "max"))
    for result in training.run():
        if result.epoch == 4:
            break
    assert training.state()["plateau"] == [[3.0, 0, 2]]
    again = Training(lambda: LineTask(c), c, None, checkpoints)  # by promotion, which knows no objective
    assert again.resume() is not None
    assert again.state()["plateau"] == [[3.0, 0, 2]]
    again.step.rates.restore([])  # a checkpoint of before there was any
    assert again.state()["plateau"] == [[None, 0, 0]]
