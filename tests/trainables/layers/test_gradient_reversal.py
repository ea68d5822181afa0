"""The identity forward, a turned gradient backward, and schedules that mean the same in epochs and in shares."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from refsweep.trainables.choices import ReversalSchedule
from refsweep.trainables.layers.gradient_reversal import ramp, reverse_gradient, strength


def test_forward_is_the_identity_and_backward_turns_the_gradient():
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    out = reverse_gradient(x, 0.25)
    assert torch.equal(out, x)
    (out * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-0.25, -2.5, -25.0]


def test_alpha_zero_lets_no_gradient_through():
    x = torch.ones(2, requires_grad=True)
    reverse_gradient(x, 0.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0]


def test_what_stands_above_descends_while_what_stands_below_ascends():
    """One step on (a * r(b))^2: a falls, b rises, alpha times as fast."""
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    (a * reverse_gradient(b, 0.5)).square().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad == 2 * 2 * 9
    assert b.grad == -0.5 * 2 * 3 * 4


@pytest.mark.parametrize("epoch", [0, 1, 10, 44, 45, 79])
def test_the_seeds_schedule_over_45_epochs_is_the_published_one(epoch: int):
    done = ramp(epoch / 80, 80, 45.0, "epochs")
    assert strength("seed", done) == pytest.approx(min(1.0, 0.1 + 0.02 * epoch))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_danns_schedule_is_the_published_one(p: float):
    assert strength("dann", ramp(p, 7, 1.0, "training")) == pytest.approx(2 / (1 + math.exp(-10 * p)) - 1)


def test_linear_reaches_its_end_where_it_is_told_and_constant_is_there_from_the_start():
    assert [strength("linear", ramp(e / 10, 10, 4.0, "epochs")) for e in (0, 1, 2, 4, 9)] == [0, 0.25, 0.5, 1, 1]
    assert strength("constant", ramp(0.0, 10, 4.0, "epochs")) == 1


@pytest.mark.parametrize("schedule", get_args(ReversalSchedule))
@pytest.mark.parametrize("epochs", [4, 60])
def test_a_schedule_in_shares_ends_however_short_the_training(schedule: str, epochs: int):
    """Not repeated: schedules in epochs alone, which a short run never reaches."""
    for progress in (0.0, 0.1, 0.3, 0.5, 0.9):
        in_shares = strength(schedule, ramp(progress, epochs, 0.5, "training"))
        in_epochs = strength(schedule, ramp(progress, epochs, 0.5 * epochs, "epochs"))
        assert in_shares == pytest.approx(in_epochs)
    assert strength(schedule, ramp(0.5, epochs, 0.5, "training")) == pytest.approx(1, abs=1e-4)
