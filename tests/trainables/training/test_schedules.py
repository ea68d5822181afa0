"""Our optimisers and schedules do what torch's do, step for step, wherever a training is stopped and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.tests.trainables.training.line import (
    BATCHES,
    EPOCHS,
    LR,
    Plain,
    config,
    moves,
    same,
    torch_moves,
)
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.schedules import LrSchedule, Position, lr_factor
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Case = tuple[dict[str, Any], Callable[[nn.Module, int], Plain]]  # our fields; torch's, given the steps of an epoch


def cosine_by_step(model: nn.Module, steps: int) -> Plain:
    optimiser = AdamW(model.parameters(), LR, weight_decay=0.1)
    return Plain([optimiser], [CosineAnnealingLR(optimiser, EPOCHS * steps)])


def cosine_between_factors(model: nn.Module, steps: int) -> Plain:
    optimiser = AdamW(model.parameters(), LR * 0.5, weight_decay=0.0)
    return Plain([optimiser], [CosineAnnealingLR(optimiser, EPOCHS * steps, eta_min=LR * 0.1)])


def cosine_after_steps(model: nn.Module, steps: int) -> Plain:
    optimiser = AdamW(model.parameters(), LR, weight_decay=0.0)
    rise = LinearLR(optimiser, 0.1, total_iters=3)
    fall = CosineAnnealingLR(optimiser, EPOCHS * steps - 3, eta_min=LR * 0.01)
    return Plain([optimiser], [SequentialLR(optimiser, [rise, fall], [3])])


def cosine_by_epoch(model: nn.Module, _: int) -> Plain:
    """As published for windowed_reid, but for its lengths."""
    optimiser = Adam(model.parameters(), LR, weight_decay=0.1)
    rise, fall = LinearLR(optimiser, 0.01, total_iters=2), CosineAnnealingLR(optimiser, EPOCHS - 2, eta_min=LR * 0.001)
    return Plain([optimiser], each_epoch=[SequentialLR(optimiser, [rise, fall], [2])])


def linear_by_step(model: nn.Module, steps: int) -> Plain:
    optimiser = SGD(model.parameters(), LR)
    return Plain([optimiser], [LinearLR(optimiser, 0.3, 0.9, total_iters=EPOCHS * steps)])


def linear_after_a_share(model: nn.Module, steps: int) -> Plain:
    """As published for the text of TubeDETR."""
    optimiser = AdamW(model.parameters(), LR, weight_decay=0.0)
    many = EPOCHS * steps // 5
    rise, fall = LinearLR(optimiser, 0.2, total_iters=many), LinearLR(optimiser, 1.0, 0.0, EPOCHS * steps - many)
    return Plain([optimiser], [SequentialLR(optimiser, [rise, fall], [many])])


def step_by_epoch(model: nn.Module, _: int) -> Plain:
    optimiser = SGD(model.parameters(), LR, momentum=0.9, weight_decay=0.1)
    return Plain([optimiser], each_epoch=[StepLR(optimiser, 2, 0.3)])


def milestones_after_steps(model: nn.Module, _: int) -> Plain:
    optimiser = SGD(model.parameters(), LR, momentum=0.8, nesterov=True)
    return Plain([optimiser], [LinearLR(optimiser, 0.25, total_iters=4)], [MultiStepLR(optimiser, [1, 3], 0.5)])


def plateau_after_epochs(model: nn.Module, _: int) -> Plain:
    optimiser = Adam(model.parameters(), LR)
    rise = LinearLR(optimiser, 0.5, total_iters=2)
    return Plain([optimiser], each_epoch=[rise, ReduceLROnPlateau(optimiser, "max", 0.1, patience=1)])


def nothing_after_epochs_by_step(model: nn.Module, steps: int) -> Plain:
    optimiser = AdamW(model.parameters(), LR, weight_decay=0.0)
    return Plain([optimiser], [LinearLR(optimiser, 0.2, total_iters=2 * steps)])


CASES: dict[str, Case] = {
    "adamw, cosine": ({"schedule_interval": "step", "weight_decay": 0.1}, cosine_by_step),
    "cosine between factors": (
        {"schedule_interval": "step", "lr_start_factor": 0.5, "lr_end_factor": 0.1},
        cosine_between_factors,
    ),
    "cosine after a warm-up in steps": (
        {
            "schedule_interval": "step",
            "warmup": 3.0,
            "warmup_unit": "steps",
            "warmup_start_factor": 0.1,
            "lr_end_factor": 0.01,
        },
        cosine_after_steps,
    ),
    "adam, warm-up and cosine by epoch": (
        {
            "optimiser": "adam",
            "weight_decay": 0.1,
            "schedule_interval": "epoch",
            "warmup": 2.0,
            "warmup_unit": "epochs",
            "warmup_start_factor": 0.01,
            "lr_end_factor": 0.001,
        },
        cosine_by_epoch,
    ),
    "sgd, linear": (
        {
            "optimiser": "sgd",
            "schedule": "linear",
            "schedule_interval": "step",
            "lr_start_factor": 0.3,
            "lr_end_factor": 0.9,
        },
        linear_by_step,
    ),
    "linear after a share of the training": (
        {"schedule": "linear", "schedule_interval": "step", "warmup": 0.2, "warmup_start_factor": 0.2},
        linear_after_a_share,
    ),
    "sgd with momentum, step": (
        {
            "optimiser": "sgd",
            "momentum": 0.9,
            "weight_decay": 0.1,
            "schedule": "step",
            "step_epochs": 2,
            "lr_decay": 0.3,
        },
        step_by_epoch,
    ),
    "sgd with nesterov, multistep after a warm-up in steps": (
        {
            "optimiser": "sgd",
            "momentum": 0.8,
            "nesterov": True,
            "schedule": "multistep",
            "milestones": (1, 3),
            "lr_decay": 0.5,
            "schedule_interval": "step",
            "warmup": 4.0,
            "warmup_unit": "steps",
            "warmup_start_factor": 0.25,
        },
        milestones_after_steps,
    ),
    "adam, plateau after a warm-up in epochs": (
        {
            "optimiser": "adam",
            "schedule": "plateau",
            "patience": 1,
            "schedule_interval": "epoch",
            "warmup": 2.0,
            "warmup_unit": "epochs",
            "warmup_start_factor": 0.5,
        },
        plateau_after_epochs,
    ),
    "constant after a warm-up in epochs, by step": (
        {
            "schedule": "constant",
            "schedule_interval": "step",
            "warmup": 2.0,
            "warmup_unit": "epochs",
            "warmup_start_factor": 0.2,
        },
        nothing_after_epochs_by_step,
    ),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_step_is_torchs(name: str, accumulate: int):
    fields, plain = CASES[name]
    c = config(accumulate=accumulate, **fields)
    steps = math.ceil(BATCHES / accumulate)
    ours = moves(c, objective=("figure", "max"))
    theirs = torch_moves(c, lambda model: plain(model, steps))
    assert len(ours) == EPOCHS * steps
    assert len({move.lrs for move in ours}) > 1, "a schedule that changes nothing proves nothing"
    assert same(ours, theirs)


@pytest.mark.parametrize("name", CASES)
def test_stopped_and_resumed_in_the_middle_every_step_is_the_same(name: str, tmp_path: Path):
    """Stopped within a step, at the end of an epoch, and in the epoch before the last."""
    fields, _ = CASES[name]
    c = config(accumulate=3, **fields)
    whole = moves(c, objective=("figure", "max"))
    parted = moves(c, objective=("figure", "max"), folder=tmp_path, stops=(2, 2, 9))
    assert [move.lrs for move in parted] == [move.lrs for move in whole]
    for one, two in zip(parted, whole, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one.weights, two.weights, strict=True))


def test_a_warm_up_of_more_steps_than_there_are_is_refused():
    fields: dict[str, Any] = {"schedule_interval": "step", "warmup_unit": "steps", "accumulate": 3}
    assert len(moves(config(**fields, warmup=10.0))) == 10
    with pytest.raises(InputError, match=r"warmup must be in 0\.\.10, the steps of the training, got 11"):
        moves(config(**fields, warmup=11.0))


def test_by_default_the_learning_rate_rises_and_falls_as_it_always_has():
    def factor(done: float, warmup: float) -> float:
        schedule = LrSchedule.of(toy.Config(epochs=1, warmup=warmup))
        return lr_factor(schedule, Position(0, round(done * 1000), 1000))

    assert factor(0.0, 0.0) == 1
    assert factor(0.05, 0.1) == 0.5
    assert factor(0.1, 0.1) == 1
    assert factor(0.55, 0.1) == pytest.approx(0.5)
    assert factor(0.999, 0.1) == pytest.approx(0, abs=1e-5)
    assert all(math.isfinite(factor(p, 1.0)) for p in np.linspace(0, 1, 11))
    # what the first release computed, to the last bit
    for warmup in (0.0, 0.1, 0.3, 1.0):
        for done in np.arange(1000) / 1000:
            expected = 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) if warmup < 1 else 1.0
            assert factor(done, warmup) == (done / warmup if done < warmup else expected)
