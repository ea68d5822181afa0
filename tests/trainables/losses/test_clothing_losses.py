"""The losses of text-to-image re-identification against hand-worked values and loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from refsweep.trainables.losses.clothing import cloth_adversary, cloth_matching
from refsweep.trainables.losses.contrastive import info_nce, symmetric_info_nce
from refsweep.trainables.losses.decoupling import hsic, mean_cosine
from torch import Tensor

T = 0.5


def unit(rows: int, width: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def same(labels: list[int]) -> Tensor:
    return torch.tensor(labels)[:, None] == torch.tensor(labels)


def slow_info_nce(similarity: Tensor, positive: list[list[int]], ignored: list[list[int]]) -> float:
    """One way, pair by pair."""
    rows = []
    for i, wanted in enumerate(positive):
        if wanted:
            rest = [j for j in range(similarity.shape[1]) if j not in ignored[i]]
            total = sum(math.exp(similarity[i, j] / T) for j in rest)
            rows.append(sum(-math.log(math.exp(similarity[i, j] / T) / total) for j in wanted) / len(wanted))
    return sum(rows) / len(rows) if rows else 0.0


def test_info_nce_of_two_pairs_worked_by_hand():
    """Own similarity 1, other 0, temperature 1: -log(e / (e + 1)) both ways."""
    eye = torch.eye(2)
    loss = symmetric_info_nce(eye, eye, eye.bool(), 1.0, "share")
    assert loss.item() == pytest.approx(math.log(1 + 1 / math.e))


@pytest.mark.parametrize("how", ["share", "mask"])
def test_pictures_of_one_person_are_no_negatives_of_each_other(how: str):
    """Not repeated: in-batch InfoNCE that pushes texts of the same person away."""
    image, text, labels = unit(4, seed=1), unit(4, seed=2), [7, 7, 3, 5]
    loss = symmetric_info_nce(image, text, same(labels), T, how).item()
    mates = [[j for j in range(4) if labels[j] == labels[i]] for i in range(4)]
    own = [[i] for i in range(4)]
    others = [[j for j in m if j != i] for i, m in enumerate(mates)]
    positive, ignored = (mates, [[]] * 4) if how == "share" else (own, others)
    sim = image @ text.T
    slow = (slow_info_nce(sim, positive, ignored) + slow_info_nce(sim.T, positive, ignored)) / 2
    assert loss == pytest.approx(slow, rel=1e-5)
    plain = (slow_info_nce(sim, own, [[]] * 4) + slow_info_nce(sim.T, own, [[]] * 4)) / 2
    assert loss != pytest.approx(plain, rel=1e-3)


def test_a_text_that_stands_for_two_people_is_neither_right_nor_wrong_for_the_other():
    image, text = unit(3, seed=3), unit(3, seed=4)
    text[1] = text[0]
    same_text = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    loss = symmetric_info_nce(image, text, torch.eye(3).bool(), T, "share", same_text).item()
    sim, own, ignored = image @ text.T, [[0], [1], [2]], [[1], [0], []]
    assert loss == pytest.approx((slow_info_nce(sim, own, ignored) + slow_info_nce(sim.T, own, ignored)) / 2, rel=1e-5)


def test_rows_without_a_positive_count_for_nothing_and_no_positive_at_all_is_zero():
    a, b = unit(3), unit(3, seed=1)
    only = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
    assert info_nce(a, b, only, T).item() == pytest.approx(slow_info_nce(a @ b.T, [[0], [], []], [[]] * 3), rel=1e-5)
    assert info_nce(a, b, torch.zeros(3, 3).bool(), T).item() == 0


def test_gradients_are_numbers_where_columns_are_ignored():
    a = unit(3).requires_grad_()
    symmetric_info_nce(a, unit(3, seed=1), same([1, 1, 2]), T, "mask").backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_the_adversary_averages_over_others_only():
    """Not repeated: the diagonal zeroed and counted, which made the loss (B - 1) / B of itself."""
    image, text = unit(4, seed=5), unit(4, seed=6)
    share = (image @ text.T / T).softmax(1)
    others = [-math.log(share[i, j]) for i in range(4) for j in range(4) if i != j]
    loss = cloth_adversary(image, text, torch.eye(4).bool(), T).item()
    assert loss == pytest.approx(sum(others) / 12, rel=1e-5)
    assert loss != pytest.approx(sum(others) / 16, rel=1e-2)


def test_the_adversary_pushes_the_own_description_away_and_moves_no_description():
    image, text = unit(4, seed=5).requires_grad_(), torch.eye(4, 6).requires_grad_()
    cloth_adversary(image, text, torch.eye(4).bool(), T).backward()
    assert text.grad is None
    assert image.grad is not None
    assert (image.grad[:, :4].diagonal() > 0).all()  # descent lowers each own similarity


def test_the_adversary_of_a_batch_of_one_person_is_zero():
    assert cloth_adversary(unit(3), unit(3, seed=1), torch.ones(3, 3).bool(), T).item() == 0


def pairs(unmatched: list[int]) -> tuple[Tensor, Tensor]:
    """(picture, matched) of three own pairs and some unmatched ones."""
    return torch.tensor([0, 1, 2, *unmatched]), torch.tensor([1, 1, 1, *[0] * len(unmatched)]).bool()


def test_without_unmatched_pairs_matching_is_symmetric_info_nce():
    image, text = unit(3, seed=7), unit(3, seed=8)
    image_of, matched = pairs([])
    loss = cloth_matching(image, text, image_of, matched, torch.eye(3).bool(), torch.eye(3).bool(), T)
    assert loss.item() == pytest.approx(symmetric_info_nce(image, text, torch.eye(3).bool(), T, "share").item())


def test_an_unmatched_pair_is_a_negative_both_ways():
    """Not repeated: `is_matched` ignored, so that a caption of other clothes counted as the right one."""
    image, text = unit(3, seed=7), unit(4, seed=8)
    image_of, matched = pairs([1])
    people = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]).bool()
    loss = cloth_matching(image, text, image_of, matched, torch.eye(4).bool(), people, T).item()
    sim = image @ text.T
    there = slow_info_nce(sim, [[0], [1], [2]], [[]] * 3)
    back = slow_info_nce(sim.T, [[0], [1], [2], []], [[]] * 4)
    share = (sim.T[3] / T).softmax(0)[1].item()
    assert loss == pytest.approx((there + back) / 2 - math.log(1 - share), rel=1e-5)


def test_is_matched_turns_the_pull_into_a_push():
    image_of = torch.tensor([0, 1, 0])
    people, texts = torch.zeros(2, 3).bool(), torch.eye(3).bool()
    moved = {}
    for is_matched in (True, False):
        image, text = unit(2, seed=9).requires_grad_(), unit(3, seed=10)
        matched = torch.tensor([True, True, is_matched])
        cloth_matching(image, text, image_of, matched, texts, people, T).backward()
        assert image.grad is not None
        moved[is_matched] = float((-image.grad[0] * text[2]).sum())
    assert moved[True] > 0 > moved[False]


def test_the_same_description_of_another_person_is_right_too_and_other_clothes_of_the_same_person_are_left_out():
    image, text = unit(3, seed=11), unit(3, seed=12)
    text[1] = text[0]
    same_text = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    people = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()  # pictures 0 and 2 are of one person
    image_of, matched = pairs([])
    loss = cloth_matching(image, text, image_of, matched, same_text, people, T).item()
    sim, positive, ignored = image @ text.T, [[0, 1], [0, 1], [2]], [[2], [], [0]]
    back_ignored = [[2], [], [0]]
    slow = (slow_info_nce(sim, positive, ignored) + slow_info_nce(sim.T, positive, back_ignored)) / 2
    assert loss == pytest.approx(slow, rel=1e-5)


def test_mean_cosine_worked_by_hand():
    one, two = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [-3.0, 0.0]])
    assert mean_cosine(one, two).item() == pytest.approx((0 + math.sqrt(0.5)) / 2)


def slow_hsic(one: Tensor, two: Tensor) -> float:
    """tr(K H L H) / (N - 1)^2, matrix by matrix."""
    n = len(one)
    k, m = (F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).T for x in (one, two))
    h = torch.eye(n) - 1 / n
    return float(torch.trace(k @ h @ m @ h) / (n - 1) ** 2)


def test_hsic_is_centred_and_never_negative():
    """Not repeated: an uncentred HSIC, which is large for features that only share a mean and can be negative."""
    for seed in range(5):
        one, two = (torch.randn(7, w, generator=torch.Generator().manual_seed(seed + w)) for w in (4, 5))
        assert hsic(one, two).item() == pytest.approx(slow_hsic(one, two), rel=1e-4)
        assert hsic(one, two).item() >= 0
    constant = torch.ones(7, 4)
    assert hsic(constant, torch.randn(7, 5)).item() == pytest.approx(0, abs=1e-12)
    assert (F.normalize(constant, dim=-1) @ F.normalize(constant, dim=-1).T).mean() == pytest.approx(1)
    assert hsic(torch.randn(1, 4), torch.randn(1, 4)).item() == 0
