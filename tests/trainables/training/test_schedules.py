"""Our optimisers and schedules do what torch's do, step for step, wherever a training is stopped and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.trainables.training.line import (
    BATCHES,
    LineTask,
    Move,
    Plain,
    config,
    moves,
    torch_moves,
)
from refsweep.trainables.toy import task as toy
from refsweep.trainables.training.checkpoints import Checkpoints
from refsweep.trainables.training.loop import Training
from refsweep.trainables.training.optimisers import by_role
from refsweep.trainables.training.plateau import Plateau
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

LR, EPOCHS = 0.05, 5
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


def same(ours: list[Move], theirs: list[Move], rel: float = 1e-9) -> bool:
    """Whether each step used the same learning rates and left the same weights."""
    return len(ours) == len(theirs) and all(
        a.lrs == pytest.approx(b.lrs, rel=rel)
        and all(torch.allclose(x, y, rtol=rel, atol=rel) for x, y in zip(a.weights, b.weights, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


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


def test_groups_have_rates_decays_and_schedules_of_their_own():
    """As published for TubeDETR: a slow group decayed by steps, and one with a schedule of its own."""

    def groups(model: Any) -> list[dict[str, Any]]:
        return [
            {"params": list(model[0].parameters()), "lr_factor": 0.1, "weight_decay_factor": 0.0},
            {"params": list(model[1].parameters()), "lr": 0.02, "weight_decay": 0.3, "lr_factor": 0.5},
            {
                "params": list(model[2].parameters()),
                "schedule": "linear",
                "schedule_interval": "step",
                "warmup": 5.0,
                "warmup_unit": "steps",
                "warmup_start_factor": 0.1,
            },
        ]

    def plain(model: Any) -> Plain:
        slow = AdamW(model[0].parameters(), LR * 0.1, weight_decay=0.0)
        other = AdamW(model[1].parameters(), 0.01, weight_decay=0.3)
        text = AdamW(model[2].parameters(), LR, weight_decay=0.2)
        rise, fall = LinearLR(text, 0.1, total_iters=5), LinearLR(text, 1.0, 0.0, EPOCHS * BATCHES - 5)
        return Plain(
            [slow, other, text],
            [SequentialLR(text, [rise, fall], [5])],
            [StepLR(slow, 2, 0.1), StepLR(other, 2, 0.1)],
        )

    c = config(weight_decay=0.2, schedule="step", step_epochs=2)
    assert same(moves(c, groups), torch_moves(c, plain))


def test_biases_learn_twice_as_fast_and_norms_do_not_decay():
    """As published for windowed_reid: norm layers' biases are biases too."""

    def plain(model: Any) -> Plain:
        groups = [
            {"params": [model[0].weight, model[2].weight]},
            {"params": [model[0].bias, model[2].bias], "lr": 2 * LR, "weight_decay": 0.05},
            {"params": [model[1].weight], "weight_decay": 0.0},
            {"params": [model[1].bias], "lr": 2 * LR, "weight_decay": 0.0},
        ]
        optimiser = Adam(groups, LR, weight_decay=0.1)
        return Plain([optimiser], [CosineAnnealingLR(optimiser, EPOCHS * BATCHES)])

    fields: dict[str, Any] = {"optimiser": "adam", "schedule_interval": "step", "weight_decay": 0.1}
    factors = {"bias_lr_factor": 2.0, "bias_weight_decay_factor": 0.5, "norm_weight_decay_factor": 0.0}
    c = config(**fields, **factors)
    assert same(moves(c), torch_moves(c, plain))
    assert not same(moves(config(**fields)), torch_moves(c, plain))


def test_a_modules_parameters_are_weights_biases_and_norms():
    class RootMeanSquareNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "batch": nn.BatchNorm2d(4),
            "layer": nn.LayerNorm(4),
            "own": RootMeanSquareNorm(),
            "table": nn.Embedding(3, 4),
            "frozen": nn.Linear(4, 4).requires_grad_(False),
            "tied": nn.Linear(4, 3, bias=False),
        }
    )
    model["tied"].weight = model["table"].weight
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights, biases, norms = ([names[id(p)] for p in part] for part in by_role(model))
    assert weights == ["attention.in_proj_weight", "attention.out_proj.weight", "table.weight"]
    assert biases == ["attention.in_proj_bias", "attention.out_proj.bias"]
    assert norms == ["batch.weight", "batch.bias", "layer.weight", "layer.bias", "own.scale"]


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


def test_a_warm_up_of_more_steps_than_there_are_is_refused():
    fields: dict[str, Any] = {"schedule_interval": "step", "warmup_unit": "steps", "accumulate": 3}
    assert len(moves(config(**fields, warmup=10.0))) == 10
    with pytest.raises(InputError, match=r"warmup must be in 0\.\.10, the steps of the training, got 11"):
        moves(config(**fields, warmup=11.0))


def test_a_groups_schedule_must_fit_together():
    def groups(model: Any) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "schedule": "multistep", "milestones": (5,)}]

    with pytest.raises(InputError, match=r"milestones must be in 1\.\.4, below epochs, got \[5\]"):
        moves(config(), groups)


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
