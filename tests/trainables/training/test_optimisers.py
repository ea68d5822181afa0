"""Groups of parameters with rates, factors and schedules of their own do what torch's do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from refsweep.datasets.problems import InputError
from refsweep.tests.trainables.training.line import BATCHES, EPOCHS, LR, Plain, config, moves, same, torch_moves
from refsweep.trainables.training.optimisers import by_role
from torch import nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_groups_schedule_must_fit_together():
    def groups(model: Any) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "schedule": "multistep", "milestones": (5,)}]

    with pytest.raises(InputError, match=r"milestones must be in 1\.\.4, below epochs, got \[5\]"):
        moves(config(), groups)


def test_a_group_that_says_what_nobody_reads_is_refused():
    def groups(model: Any) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "lr_facter": 2.0}]

    with pytest.raises(InputError, match=r"param_groups must say some of .*, lr, lr_decay, .*, got lr_facter"):
        moves(config(), groups)
