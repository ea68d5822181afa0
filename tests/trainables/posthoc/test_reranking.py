"""Re-ranking against a version written from the paper, one row at a time; the search against trying one by one."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from refsweep.datasets.problems import InputError
from refsweep.trainables.metrics import retrieval
from refsweep.trainables.metrics.retrieval import Ranking, RetrievalTruth, rank, rank_similarities
from refsweep.trainables.posthoc import reranking
from refsweep.trainables.posthoc.reranking import (
    Features,
    choose,
    expand_queries,
    figures,
    k_reciprocal,
    ranked,
    similarities,
)
from refsweep.trainables.posthoc.settings import PLAIN, Grid, weightings

Singles = NDArray[np.float32]


def assert_same(a: Ranking, b: Ranking) -> None:
    for field in dataclasses.fields(Ranking):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def slow_k_reciprocal(query: Singles, gallery: Singles, k1: int, k2: int, lam: float) -> NDArray[np.float64]:
    """Equations 1 to 12 with sets and loops; distances scaled and weights normalised as the authors' code does."""
    rows = np.concatenate([query, gallery]).astype(np.float64)
    everything = range(len(rows))
    similarity = (rows @ rows.T).astype(np.float32).astype(np.float64)
    far = [max(1 - similarity[p].min(), 1e-12) for p in everything]
    d = [[max(1 - similarity[p][g], 0.0) / far[p] for g in everything] for p in everything]

    def n(p: int, k: int) -> list[int]:
        others = [g for g in everything if g != p]
        return [p, *(g for g in others if sum(similarity[p][h] >= similarity[p][g] for h in others) <= k)]

    def r(p: int, k: int) -> set[int]:
        return {g for g in n(p, k) if p in n(g, k)}

    v = np.zeros((len(rows), len(rows)))
    for p in everything:
        extended = set(r(p, k1))
        for q in r(p, k1):
            half = r(q, round(k1 / 2))
            if 3 * len(r(p, k1) & half) >= 2 * len(half):
                extended |= half
        for g in extended:
            v[p, g] = math.exp(-d[p][g])
        v[p] /= v[p].sum()
    v = np.array([np.mean([v[g] for g in n(p, k2 - 1)], axis=0) for p in everything])
    distance_QG = np.zeros((len(query), len(gallery)))
    for p in range(len(query)):
        for g in range(len(gallery)):
            a, b = v[p], v[len(query) + g]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            distance_QG[p, g] = (1 - lam) * jaccard + lam * d[p][len(query) + g]
    return distance_QG


def directions(count: int, width: int, rng: np.random.Generator) -> Singles:
    """Rows of length 1."""
    rows = rng.standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def on_a_circle(*degrees: float) -> Singles:
    return np.array([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees], np.float32)


def people(identities: int, seed: int, noise: float = 0.8, width: int = 24) -> tuple[Features, RetrievalTruth]:
    """A split of made features: one query and four gallery rows a person."""
    rng = np.random.default_rng(seed)
    shared = directions(identities, width, rng)
    q_id, g_id = np.arange(identities), np.repeat(np.arange(identities), 4)
    query, gallery = (shared[i] + noise * directions(len(i), width, rng) for i in (q_id, g_id))
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    return Features.of(query, gallery), RetrievalTruth(q_id, g_id)


GRID = Grid(k1=(2, 6), k2=(1, 3), lam=(0.0, 0.3, 0.7), qe=((2, 0.0), (4, 3.0)))


def test_re_ranking_by_hand():
    # a query at 0 degrees, gallery rows at 10 and 25. The nearest of the first two is the other, that of the third is
    # the second: it is in no other's set. k1 / 2 rounds to 0, so that no set grows
    distance_QG = k_reciprocal(on_a_circle(0), on_a_circle(10, 25), 1, 1, 0.25)
    c10, c15, c25 = (math.cos(math.radians(a)) for a in (10, 15, 25))
    e_query, e_first = math.exp(-(1 - c10) / (1 - c25)), math.exp(-(1 - c10) / (1 - c15))
    smaller = min(1 / (1 + e_query), e_first / (1 + e_first)) + min(e_query / (1 + e_query), 1 / (1 + e_first))
    first = 0.75 * (1 - smaller / (2 - smaller)) + 0.25 * (1 - c10) / (1 - c25)
    np.testing.assert_allclose(distance_QG, [[first, 1.0]], rtol=1e-5)


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 6),
    gallery=st.integers(1, 10),
    k1=st.integers(1, 12),
    k2=st.integers(1, 7),
    lam=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    ties=st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_it_is_the_paper_one_row_at_a_time(
    seed: int, queries: int, gallery: int, k1: int, k2: int, lam: float, ties: bool
):
    rng = np.random.default_rng(seed)
    rows = directions(queries + gallery, 6, rng)
    if ties:  # a few directions, each several times
        rows = np.eye(3, dtype=np.float32)[rng.integers(0, 3, len(rows))] * rng.choice([-1, 1], (len(rows), 1))
        rows = rows.astype(np.float32)
    rows = retrieval.on_grid(rows).astype(np.float32)  # so that both compute with the same numbers
    distance_QG = k_reciprocal(rows[:queries], rows[queries:], k1, k2, lam)
    np.testing.assert_allclose(distance_QG, slow_k_reciprocal(rows[:queries], rows[queries:], k1, k2, lam), atol=1e-5)


def test_query_expansion_by_hand():
    # similarities 0.8 and 0.6; the third row points away and counts as 0
    query, gallery = np.array([[1.0, 0.0]]), np.array([[0.6, 0.8], [0.8, -0.6], [-1.0, 0.0]])
    expected = np.array([1 + 0.8**3 * 0.8 + 0.6**3 * 0.6, -(0.8**3) * 0.6 + 0.6**3 * 0.8])
    for k in (2, 3):
        np.testing.assert_allclose(
            expand_queries(query, gallery, k, 3.0), [expected / np.linalg.norm(expected)], rtol=1e-6
        )
    mean = np.array([1 + 0.8 + 0.6, -0.6 + 0.8])
    np.testing.assert_allclose(expand_queries(query, gallery, 2, 0.0), [mean / np.linalg.norm(mean)], rtol=1e-6)
    np.testing.assert_array_equal(expand_queries(query, gallery, 0, 3.0), query)


def test_the_plain_setting_is_the_plain_ranking():
    features, truth = people(12, 0)
    q, g = (np.asarray(x["all"]) for x in (features.query, features.gallery))
    plain = rank(q, g, truth.query_id_Q, truth.gallery_id_G)
    assert_same(ranked(features, truth, PLAIN), plain)
    assert_same(ranked(features, truth, {**PLAIN, "k1": 20, "k2": 6}), plain)
    assert_same(rank_similarities(similarities(features, PLAIN), truth.query_id_Q, truth.gallery_id_G), plain)
    for grid in (Grid(), GRID, Grid(k1=(), k2=(), lam=(), qe=()), Grid(weights=weightings(["all"]))):
        assert grid.settings()[0] == PLAIN


@pytest.mark.parametrize("metric", ["map", "rank1", "minp", "map100"])
def test_the_choice_is_never_worse_than_plain_where_it_is_made(metric: str):
    for seed in range(4):
        features, truth = people(9, seed, noise=2.0 if seed % 2 else 0.8)  # with much noise re-ranking often harms
        chosen = choose(features, truth, GRID, metric)
        plain = ranked(features, truth, PLAIN).figures()[metric]
        assert ranked(features, truth, chosen).figures()[metric] >= plain


def test_where_nothing_can_be_gained_the_choice_is_plain():
    rows = np.eye(6, dtype=np.float32)
    truth = RetrievalTruth(np.arange(6), np.arange(6))
    assert choose(Features.of(rows, rows), truth, GRID) == PLAIN


def test_work_that_settings_share_changes_no_figure():
    features, truth = people(10, 3)
    every = GRID.settings()
    assert len(every) == 3 * (1 + 2 * 2 * 3)
    assert figures(features, truth, every) == [ranked(features, truth, s).figures()["map"] for s in every]
    q, g = features.query["all"], features.gallery["all"]
    one = {"k1": 6, "k2": 3, "lambda": 0.3, "qe_k": 4, "qe_alpha": 3.0}
    assert one in every
    by_parts = -k_reciprocal(expand_queries(q, g, 4, 3.0), g, 6, 3, 0.3)
    np.testing.assert_array_equal(similarities(features, one), by_parts)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    features, truth = people(10, 4)
    every = GRID.settings()
    expected = figures(features, truth, every)
    monkeypatch.setattr(reranking, "BLOCK", 90)
    monkeypatch.setattr(retrieval, "BLOCK", 130)
    assert figures(features, truth, every) == expected


def test_a_choice_travels_as_json_and_helps_elsewhere():
    chosen = choose(*people(40, 5), GRID)
    assert chosen["lambda"] < 1
    features, truth = people(40, 6)
    before = ranked(features, truth, PLAIN)
    after = ranked(features, truth, chosen)
    assert after.figures()["map"] > before.figures()["map"] + 3
    travelled = json.loads(json.dumps({k: float(v) for k, v in chosen.items()}))
    assert_same(ranked(features, truth, travelled), after)


def test_weights_are_a_weighted_sum_of_similarities():
    rng = np.random.default_rng(7)
    query = {"image": directions(5, 4, rng), "text": directions(5, 7, rng)}
    gallery = {"image": directions(8, 4, rng), "text": directions(8, 7, rng)}
    similarity_QG = similarities(Features(query, gallery), {"weight_image": 0.75, "weight_text": 0.25})
    expected = 0.75 * query["image"] @ gallery["image"].T + 0.25 * query["text"] @ gallery["text"].T
    np.testing.assert_allclose(similarity_QG, expected, atol=1e-6)
    alone = similarities(Features(query, gallery), {"weight_image": 1.0, "weight_text": 0.0})
    np.testing.assert_allclose(alone, query["image"] @ gallery["image"].T, atol=1e-6)


def test_a_query_without_a_modality_is_ranked_by_the_others():
    rng = np.random.default_rng(8)
    gallery = directions(9, 5, rng)
    query = {"nir": directions(4, 5, rng), "sk": directions(4, 5, rng)}
    query["sk"][2] = 0
    similarity_QG = similarities(
        Features(query, {"nir": gallery, "sk": gallery}), {"weight_nir": 0.2, "weight_sk": 0.8}
    )
    np.testing.assert_array_equal(np.argsort(similarity_QG[2]), np.argsort(query["nir"][2] @ gallery.T))
    both = 0.2 * query["nir"][0] @ gallery.T + 0.8 * query["sk"][0] @ gallery.T
    np.testing.assert_array_equal(np.argsort(similarity_QG[0]), np.argsort(both))


def test_weights_are_searched_with_the_rest():
    assert weightings(["a", "b"], 2) == [{"a": 0, "b": 1}, {"a": 0.5, "b": 0.5}, {"a": 1, "b": 0}]
    good, truth = people(20, 9, noise=0.3)
    rng = np.random.default_rng(10)
    noise = directions(20, 8, rng), directions(80, 8, rng)
    features = Features(
        {"good": good.query["all"], "noise": noise[0]}, {"good": good.gallery["all"], "noise": noise[1]}
    )
    grid = Grid(k1=(6,), k2=(1,), lam=(0.3,), qe=(), weights=weightings(features.kinds))
    chosen = choose(features, truth, grid)
    assert chosen["weight_good"] >= 3 * chosen["weight_noise"]
    assert ranked(features, truth, chosen).figures()["map"] > ranked(features, truth, PLAIN).figures()["map"]
    assert figures(features, truth, grid.settings()) == [
        ranked(features, truth, s).figures()["map"] for s in grid.settings()
    ]


def test_a_model_that_says_the_same_of_everyone_gains_nothing():
    """Taking the first k of equals as neighbours would help those who are stored first."""
    rows = np.tile(on_a_circle(30), (15, 1))
    truth = RetrievalTruth(np.arange(3), np.repeat(np.arange(3), 4))
    values = figures(Features.of(rows[:3], rows[3:]), truth, GRID.settings())
    last = np.mean([(n + 1) / (9 + n) for n in range(4)]) * 100
    assert values == pytest.approx([last] * len(values))


def test_the_order_of_the_gallery_changes_no_figure():
    features, truth = people(8, 11)
    query, gallery = np.array(features.query["all"]), np.array(features.gallery["all"])
    gallery[12:20] = gallery[:8]  # twins, of other people
    expected = figures(Features.of(query, gallery), truth, GRID.settings())
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(gallery))
        moved = Features.of(query, gallery[order]), RetrievalTruth(truth.query_id_Q, truth.gallery_id_G[order])
        assert figures(*moved, GRID.settings()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k1": 2.5, "k2": 1, "lambda": 0.5}, "k1 must be a whole number >= 1, got 2.5"),
        ({"k1": 5, "k2": 0, "lambda": 0.5}, "k2 must be a whole number >= 1, got 0"),
        ({"lambda": 1.5, "k1": 1, "k2": 1}, r"lambda must be in 0..1, got 1.5"),
        ({"qe_k": -1}, "qe_k must be a whole number >= 0, got -1"),
        ({"qe_k": 2, "qe_alpha": -1.0}, "qe_alpha must be >= 0, got -1.0"),
        ({"weight_all": -1.0}, "weight_all must be >= 0, got -1.0"),
        ({"weight_other": 1.0}, "a setting has .*weight_all, got weight_other"),
        ({"kl": 20}, "a setting has k1, k2, lambda, .*, got kl"),
    ],
)
def test_a_bad_setting_is_named(setting: dict[str, float], message: str):
    with pytest.raises(InputError, match=message):
        ranked(*people(3, 0), setting)


def test_bad_features_and_metrics_are_named():
    features, truth = people(3, 0)
    longer: Any = {"all": 2 * np.asarray(features.query["all"])}
    with pytest.raises(InputError, match="query features must have length 1, or 0 for none, got 2 in row 0"):
        ranked(Features(longer, features.gallery), truth, PLAIN)
    with pytest.raises(InputError, match="query and gallery must have the same kinds"):
        ranked(Features({"x": features.query["all"]}, features.gallery), truth, PLAIN)
    with pytest.raises(InputError, match=r"metric must be one of rank1, rank5, .*, got mAP"):
        choose(features, truth, GRID, "mAP")
