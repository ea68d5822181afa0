"""Both SDM losses against slow obvious versions and values worked out by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from refsweep.trainables.choices import SdmKind
from refsweep.trainables.losses.sdm import EPS, kl_sdm, sdm, soft_target_sdm

torch.manual_seed(3)
ANCHOR, OTHER = torch.randn(5, 8), torch.randn(6, 8)
ANCHOR_ID, OTHER_ID = torch.tensor([1, 1, 2, 3, 9]), torch.tensor([1, 2, 2, 3, 1, 8])  # 9 and 8 have no positive


def rows_of(transposed: bool, temperature: float) -> list[tuple[list[float], list[float]]]:
    """(log prediction, target) of every row that has a positive."""
    one, two, a, b = (OTHER, ANCHOR, OTHER_ID, ANCHOR_ID) if transposed else (ANCHOR, OTHER, ANCHOR_ID, OTHER_ID)
    rows = []
    for x, i in zip(one, a.tolist(), strict=True):
        logits = [float(x @ y / x.norm() / y.norm()) / temperature for y in two]
        total = math.log(sum(math.exp(v) for v in logits))
        same = [float(i == j) for j in b.tolist()]
        if sum(same):
            rows.append(([v - total for v in logits], [s / sum(same) for s in same]))
    return rows


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def slow_soft(temperature: float) -> float:
    return mean(
        [mean([-sum(t * p for p, t in zip(*row, strict=True)) for row in rows_of(way, temperature)]) for way in (0, 1)]
    )


def slow_kl(temperature: float) -> float:
    def of(row: tuple[list[float], list[float]]) -> float:
        return sum(math.exp(p) * (p - math.log(t + EPS)) for p, t in zip(*row, strict=True))

    return sum(mean([of(row) for row in rows_of(way, temperature)]) for way in (False, True))


@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_both_losses_equal_a_slow_version_that_skips_rows_without_a_positive(temperature: float):
    args = (ANCHOR, OTHER, ANCHOR_ID, OTHER_ID, temperature)
    assert soft_target_sdm(*args).item() == pytest.approx(slow_soft(temperature), rel=1e-5)
    assert kl_sdm(*args).item() == pytest.approx(slow_kl(temperature), rel=1e-5)


def test_soft_targets_worked_out_by_hand():
    # two persons, orthogonal features: each row is a softmax of (1, 0) / 0.5 against (1, 0)
    eye, ids = torch.eye(2), torch.tensor([4, 7])
    assert soft_target_sdm(eye, eye, ids, ids, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize(("given", "used"), [(0.01, 0.15), (2.0, 0.5)])
def test_the_temperature_of_soft_targets_is_clamped_and_that_of_kl_is_not(given: float, used: float):
    args = (ANCHOR, OTHER, ANCHOR_ID, OTHER_ID)
    assert soft_target_sdm(*args, given).item() == pytest.approx(slow_soft(used), rel=1e-5)
    assert kl_sdm(*args, given).item() == pytest.approx(slow_kl(given), rel=1e-4)


@pytest.mark.parametrize("kind", get_args(SdmKind))
def test_without_any_positive_the_loss_is_zero_and_can_be_differentiated(kind):
    anchor = ANCHOR.clone().requires_grad_()
    loss = sdm(kind, anchor, OTHER, ANCHOR_ID + 100, OTHER_ID, 0.2)
    loss.backward()
    assert loss.item() == 0
    assert anchor.grad is not None
    assert anchor.grad.count_nonzero() == 0


@pytest.mark.parametrize("kind", get_args(SdmKind))
def test_descending_the_loss_aligns_identities(kind):
    torch.manual_seed(0)
    other = torch.randn(6, 8, requires_grad=True)
    optimiser = torch.optim.SGD([other], lr=0.5)

    def gap() -> float:
        cosine = torch.nn.functional.cosine_similarity(ANCHOR[:, None], other.detach()[None], dim=-1)
        same = ANCHOR_ID[:, None] == OTHER_ID[None]
        return float(cosine[same].mean() - cosine[~same].mean())

    before = gap()
    for _ in range(60):
        optimiser.zero_grad()
        sdm(kind, ANCHOR, other, ANCHOR_ID, OTHER_ID, 0.2).backward()
        optimiser.step()
    assert gap() > before + 0.5
