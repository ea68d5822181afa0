"""Gradients clipped at a running quantile: what is remembered, and for how long."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refsweep.trainables.training.clipping import WINDOW, Clipping


def clipped(clipping: Clipping, length: float) -> tuple[float, bool | None]:
    """(norm after clipping, whether it was a spike) of a gradient of that length."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.6, 0.8]) * length
    clipped = clipping.clip([parameter])
    return float(parameter.grad.norm()), clipped.spike if clipped else None


def test_a_gradient_above_the_quantile_of_those_before_it_is_cut_to_it():
    clipping = Clipping(None, 0.5)
    lengths = [1.0, 3.0, 2.0, 10.0, 4.0]
    for end, length in enumerate(lengths, 1):
        limit = float(np.quantile(lengths[:end], 0.5))  # the norms that were, not what was left of them
        after, spike = clipped(clipping, length)
        assert after == pytest.approx(min(length, limit), rel=1e-5)
        assert spike is (length > limit)


def test_only_so_many_norms_are_remembered():
    clipping = Clipping(None, 0.9)
    for _ in range(WINDOW):
        clipped(clipping, 100.0)
    for _ in range(WINDOW):
        clipped(clipping, 1.0)
    assert clipping.state().tolist() == pytest.approx([1.0] * WINDOW)
    assert clipped(clipping, 50.0)[0] == pytest.approx(1.0, rel=1e-4)


def test_what_is_saved_goes_on_as_if_nothing_had_happened():
    one, two = Clipping(None, 0.7), Clipping(None, 0.7)
    for length in (1.0, 5.0, 2.0):
        clipped(one, length)
    two.restore({"gradient_norms": one.state()})
    assert [clipped(one, x) for x in (4.0, 3.0, 9.0)] == [clipped(two, x) for x in (4.0, 3.0, 9.0)]
    two.restore({})  # a checkpoint of before there were any
    assert len(two.state()) == 0


def test_a_norm_that_is_not_finite_is_not_remembered():
    clipping = Clipping(None, 0.5)
    clipped(clipping, 2.0)
    clipped(clipping, float("inf"))
    assert clipping.state().tolist() == pytest.approx([2.0])


def test_the_fixed_limit_holds_beside_the_quantile_and_alone():
    assert clipped(Clipping(1.5, 0.5), 4.0)[0] == pytest.approx(1.5, rel=1e-4)
    for limit, expected in ((1.5, 1.5), (None, 4.0)):
        after, spike = clipped(Clipping(limit, None), 4.0)
        assert after == pytest.approx(expected, rel=1e-4)
        assert spike is None
