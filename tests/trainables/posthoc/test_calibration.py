"""Similarity calibration against hand-worked limits and a loop written from the published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from refsweep.trainables.posthoc.calibration import expression_prior, threshold_of

Floats = NDArray[np.float64]


def directions(count: int, seed: int) -> Floats:
    """Random text features of length 1."""
    feature_ND = np.random.default_rng(seed).standard_normal((count, 8))
    return feature_ND / np.linalg.norm(feature_ND, axis=1, keepdims=True)


TRAIN = directions(6, seed=1)
SHARE = np.array([0.4, 0.05, 0.25, 0.1, 0.15, 0.05])


def test_prior_of_a_seen_expression_at_large_tau_is_its_own_share():
    assert expression_prior(TRAIN, TRAIN, SHARE, 1e5) == pytest.approx(SHARE)


def test_prior_at_tau_0_is_the_mean_share():
    assert expression_prior(directions(3, seed=2), TRAIN, SHARE, 0.0) == pytest.approx([1 / 6] * 3)


def test_prior_between_two_expressions_by_hand():
    # similarities 0.8, 0.6 and 0 stretch to 1, 3/4 and 0
    prior = expression_prior([[1.0]], [[0.8], [0.6], [0.0]], [0.5, 0.3, 0.2], 4.0)
    weight = [math.e**4, math.e**3, 1]
    assert prior == pytest.approx([(0.5 * weight[0] + 0.3 * weight[1] + 0.2) / sum(weight)])


@given(st.floats(0.01, 100), st.floats(-50, 50), st.floats(0, 300))
@settings(deadline=None)
def test_the_stretch_undoes_scale_and_offset_of_similarities(scale: float, offset: float, tau: float):
    test_ED = directions(4, seed=3)
    shifted_ED = np.concatenate([scale * test_ED, np.full((4, 1), offset)], 1)
    with_one_KD = np.concatenate([TRAIN, np.ones((6, 1))], 1)
    expected = expression_prior(test_ED, TRAIN, SHARE, tau)
    assert expression_prior(shifted_ED, with_one_KD, SHARE, tau) == pytest.approx(expected, rel=1e-6)


def test_several_taus_at_once_are_those_one_at_a_time():
    test_ED, taus = directions(4, seed=3), np.array([0.0, 3.0, 100.0, 1e5])
    together_SE = expression_prior(test_ED, TRAIN, SHARE, taus)
    assert together_SE.shape == (4, 4)
    for prior_E, tau in zip(together_SE, taus, strict=True):
        np.testing.assert_array_equal(prior_E, expression_prior(test_ED, TRAIN, SHARE, float(tau)))


def test_a_prior_is_a_weighted_mean_of_shares():
    prior = expression_prior(directions(50, seed=4), TRAIN, SHARE, 10.0)
    assert prior.min() > SHARE.min()
    assert prior.max() < SHARE.max()
    assert len(np.unique(prior)) == 50


def test_training_expressions_that_are_all_alike_give_the_mean_share():
    assert expression_prior([[0.7]], np.ones((6, 1)), SHARE, 100.0) == pytest.approx([1 / 6])


eighths = st.integers(-80, 80).map(lambda n: n / 8)  # sums and products of these are exact


@given(arrays(np.float64, 5, elements=eighths), arrays(np.float64, 5, elements=eighths), eighths, eighths)
def test_a_box_is_kept_exactly_when_its_calibrated_score_is_above(
    score_E: Floats, prior_E: Floats, a: float, threshold: float
):
    kept = score_E > threshold_of(prior_E, a, threshold)
    np.testing.assert_array_equal(kept, score_E + a * prior_E > threshold)


def test_thresholds_of_several_settings_are_a_row_each():
    prior_E = np.array([0.25, 0.5])
    np.testing.assert_array_equal(threshold_of(prior_E, 2.0, 0.5), [0.0, -0.5])
    np.testing.assert_array_equal(threshold_of(prior_E, 2.0, [0.5, 1.0]), [[0.0, -0.5], [0.5, 0.0]])
    np.testing.assert_array_equal(
        threshold_of(np.stack([prior_E, 2 * prior_E]), [2.0, 4.0], [0.5, 1.0]), [[0.0, -0.5], [-1.0, -3.0]]
    )


def slow_calibrated(score_E: Floats, test_ED: Floats, a: float, b: float, tau: float) -> list[float]:
    """The published post-processing, one expression and one training expression at a time."""
    scores = []
    for score, feature in zip(score_E, test_ED, strict=True):
        sim = [sum(x * y for x, y in zip(feature, other, strict=True)) for other in TRAIN]
        low, high = min(sim), max(sim)
        power = [math.exp(tau * (s - low) / (high - low)) for s in sim]
        prior = sum(e / sum(power) * p for e, p in zip(power, SHARE, strict=True))
        scores.append(float(score + a * prior + b))
    return scores


def test_published_values_reproduce_a_slow_loop():
    a, b, tau = 8.0, -0.1, 100.0
    test_ED = np.concatenate([directions(200, seed=5), TRAIN])
    score_E = np.random.default_rng(6).uniform(-4, 1, len(test_ED))
    slow = slow_calibrated(score_E, test_ED, a, b, tau)
    prior_E = expression_prior(test_ED, TRAIN, SHARE, tau)
    assert score_E + a * prior_E + b == pytest.approx(slow)
    kept = score_E > threshold_of(prior_E, a, -b)
    np.testing.assert_array_equal(kept, np.array(slow) > 0)
    assert 20 < kept.sum() < 180
