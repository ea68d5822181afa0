"""Retrieval metrics against values worked by hand and a slow version that sorts a list for each query."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from refsweep.datasets.problems import InputError
from refsweep.trainables.metrics.retrieval import Ranking, inner_products, on_grid, rank, rank_similarities


def assert_same(a: Ranking, b: Ranking) -> None:
    for field in dataclasses.fields(Ranking):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def slow(similarity: Any, q_id: Any, g_id: Any, q_camera: Any = None, g_camera: Any = None, k: int = 50) -> Ranking:
    """From the definitions: one list a query, sorted, wrong answers first among equals."""
    first: list[float] = []
    ap: list[float] = []
    ap100: list[float] = []
    inp: list[float] = []
    for q in range(len(q_id)):
        answers = []
        for g in range(len(g_id)):
            right = g_id[g] == q_id[q]
            same_camera = q_camera is not None and q_camera[q] >= 0 and q_camera[q] == g_camera[g]
            if g_id[g] < 0 or (right and same_camera):
                continue
            answers.append((-similarity[q][g], right))
        ranks = [place for place, (_, right) in enumerate(sorted(answers), 1) if right]
        if not ranks:
            for missing in (first, ap, ap100, inp):
                missing.append(np.nan)
            continue
        precision = [n / place for n, place in enumerate(ranks, 1)]
        first.append(ranks[0])
        ap.append(sum(precision) / len(ranks))
        ap100.append(sum(p for p, r in zip(precision, ranks, strict=True) if r <= 100) / min(len(ranks), 100))
        inp.append(len(ranks) / ranks[-1])
    right = [f for f in first if not np.isnan(f)]
    cmc = [sum(f <= place for f in right) / len(right) for place in range(1, k + 1)]
    return Ranking(*(np.array(x, float) for x in (cmc, ap, ap100, inp, first)))


def assert_close(a: Ranking, b: Ranking) -> None:
    for field in dataclasses.fields(Ranking):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=1e-12, err_msg=field.name)


def test_figures_by_hand():
    # query 1 finds right answers at ranks 1 and 3; query 2 its only one at rank 4
    ranking = rank_similarities([[0.9, 0.8, 0.7, 0.1], [0.4, 0.3, 0.2, 0.1]], [1, 2], [1, 3, 1, 2], k=4)
    np.testing.assert_array_equal(ranking.first_Q, [1, 4])
    np.testing.assert_array_equal(ranking.cmc, [0.5, 0.5, 0.5, 1.0])
    np.testing.assert_allclose(ranking.ap_Q, [(1 + 2 / 3) / 2, 1 / 4])
    np.testing.assert_allclose(ranking.inp_Q, [2 / 3, 1 / 4])
    expected = {"rank1": 50, "rank5": 100, "rank10": 100, "map": 100 * (5 / 6 + 1 / 4) / 2}
    expected |= {"map100": expected["map"], "minp": 100 * (2 / 3 + 1 / 4) / 2}
    assert ranking.figures() == pytest.approx(expected)


def test_only_the_same_person_on_the_same_camera_is_left_out():
    # the best answer is the query's own camera's: left out, it is neither right nor wrong;
    # another person of that camera stays, and is wrong
    similarity, ids = [[0.9, 0.8, 0.7, 0.6]], [1, 2, 1, 1]
    ranking = rank_similarities(similarity, [1], ids, query_camera_Q=[5], gallery_camera_G=[5, 5, 6, -1])
    np.testing.assert_array_equal(ranking.first_Q, [2])
    np.testing.assert_allclose(ranking.ap_Q, [(1 / 2 + 2 / 3) / 2])
    np.testing.assert_allclose(ranking.inp_Q, [2 / 3])


def test_an_unknown_camera_is_not_the_same_camera():
    ranking = rank_similarities([[0.9, 0.8]], [1], [1, 2], query_camera_Q=[-1], gallery_camera_G=[-1, -1])
    np.testing.assert_array_equal(ranking.first_Q, [1])


def test_a_gallery_row_of_nobody_is_left_out_for_everyone():
    ranking = rank_similarities([[0.9, 0.8, 0.7], [0.9, 0.1, 0.2]], [1, 2], [-1, 1, 2])
    np.testing.assert_array_equal(ranking.first_Q, [1, 1])


def test_map100_stops_after_100_places_and_divides_by_no_more_than_100():
    similarity = -np.arange(300.0)[None]
    alone = np.where(np.arange(300) == 100, 1, 2)  # the one right answer is at rank 101
    assert rank_similarities(similarity, [1], alone).ap100_Q == pytest.approx([0.0])
    assert rank_similarities(similarity, [1], np.ones(300, int)).ap100_Q == pytest.approx([1.0])
    half = np.where(np.arange(300) % 2 == 0, 1, 2)  # 150 right answers at ranks 1, 3, 5, ...
    expected = sum((n + 1) / (2 * n + 1) for n in range(50)) / 100
    assert rank_similarities(similarity, [1], half).ap100_Q == pytest.approx([expected])


def test_a_tie_never_flatters():
    """Sorting as it comes would rank the right answer first wherever it is stored first."""
    ranking = rank_similarities(np.zeros((1, 10)), [1], [1, *[2] * 9])
    np.testing.assert_array_equal(ranking.first_Q, [10])
    two_right = rank_similarities([[0.5, 0.5, 0.5, 0.1]], [1], [1, 1, 2, 2])
    np.testing.assert_allclose(two_right.ap_Q, [(1 / 2 + 2 / 3) / 2])


def test_a_query_without_a_right_answer_counts_in_no_mean():
    similarity = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]
    ranking = rank_similarities(similarity, [1, 7, -1], [1, 2])
    assert np.isnan(ranking.ap_Q[1:]).all()
    assert ranking.figures()["map"] == 100
    with pytest.raises(InputError, match="at least one query must have a right answer in the gallery, got none of 1"):
        rank_similarities(similarity[:1], [7], [1, 2])


levels = st.integers(-3, 3).map(lambda n: n / 4)  # few: ties are the rule


@st.composite
def cases(draw: Any) -> tuple[Any, ...]:
    queries, gallery = draw(st.integers(1, 5)), draw(st.integers(1, 12))

    def ints(count: int, low: int, high: int) -> NDArray[np.int64]:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    similarity = np.array(draw(st.lists(levels, min_size=queries * gallery, max_size=queries * gallery)), np.float32)
    g_id = ints(gallery, -1, 3)
    g_id[0] = q_id0 = 1  # someone is there
    q_id = ints(queries, -1, 3)
    q_id[0] = q_id0
    g_camera = ints(gallery, -1, 1)
    q_camera = ints(queries, -1, 1)
    g_camera[0], q_camera[0] = 2, 0
    return similarity.reshape(queries, gallery), q_id, g_id, q_camera, g_camera


@given(cases(), st.booleans(), st.integers(1, 6), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_it_is_the_slow_version_in_any_order_of_the_gallery(case: Any, cameras: bool, chunk: int, random: Any):
    similarity, q_id, g_id, q_camera, g_camera = case
    given_cameras = {"query_camera_Q": q_camera, "gallery_camera_G": g_camera} if cameras else {}
    ranking = rank_similarities(similarity, q_id, g_id, k=7, chunk=chunk, **given_cameras)
    shown = (q_camera, g_camera) if cameras else (None, None)
    assert_close(ranking, slow(similarity, q_id, g_id, shown[0], shown[1], k=7))
    order = list(range(len(g_id)))
    random.shuffle(order)
    if cameras:
        given_cameras = {"query_camera_Q": q_camera, "gallery_camera_G": g_camera[order]}
    assert_same(rank_similarities(similarity[:, order], q_id, g_id[order], k=7, **given_cameras), ranking)


def features(count: int, width: int, seed: int) -> NDArray[np.float32]:
    """Random rows of length 1."""
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_order_of_the_gallery_chunks_and_threads_change_no_bit_of_features_ranked():
    """In plain float32 the same rows have other products in other chunks; on the grid they are exact."""
    rng = np.random.default_rng(0)
    query, gallery = features(37, 67, 1), features(101, 67, 2)
    gallery[50:] = gallery[:51]  # twins, of other people
    q_id, g_id = rng.integers(0, 9, 37), rng.integers(0, 9, 101)
    cameras = {"query_camera_Q": rng.integers(0, 2, 37), "gallery_camera_G": rng.integers(0, 2, 101)}
    ranking = rank(query, gallery, q_id, g_id, **cameras)
    for chunk in (1, 2, 7, 36, 37, 1000):
        assert_same(rank(query, gallery, q_id, g_id, chunk=chunk, **cameras), ranking)
    for _ in range(5):
        order = rng.permutation(101)
        moved = {**cameras, "gallery_camera_G": cameras["gallery_camera_G"][order]}
        assert_same(rank(query, gallery[order], q_id, g_id[order], **moved), ranking)
    exact = np.float32(on_grid(query) @ on_grid(gallery).T)
    assert_close(ranking, slow(exact, q_id, g_id, *cameras.values()))


def test_the_grid_is_finer_than_float32_sums_and_its_products_are_exact():
    query, gallery = features(20, 512, 3), features(30, 512, 4)
    on_query, on_gallery = on_grid(query), on_grid(gallery)
    assert np.abs(on_query - query).max() <= 2.0**-27
    product_QG = np.concatenate(list(inner_products(on_query, on_gallery, 7)))
    by_fractions = (on_query * 2**26).astype(np.int64) @ (on_gallery * 2**26).astype(np.int64).T / 2**52
    np.testing.assert_array_equal(product_QG, by_fractions.astype(np.float32))
    np.testing.assert_allclose(product_QG, query.astype(np.float64) @ gallery.T.astype(np.float64), atol=1e-7)
    assert on_grid(np.zeros((2, 3))).tolist() == [[0.0] * 3] * 2


def test_features_that_are_no_unit_vectors_rank_by_inner_product():
    query, gallery = 1000 * features(5, 8, 5), features(9, 8, 6) * np.arange(1, 10, dtype=np.float32)[:, None]
    ids = np.arange(9) % 3
    ranking = rank(query, gallery, [0, 1, 2, 0, 1], ids)
    assert_close(ranking, slow(query.astype(np.float64) @ gallery.T.astype(np.float64), [0, 1, 2, 0, 1], ids))


def test_bad_input_is_named():
    good = np.eye(2, 3, dtype=np.float32)
    bad = np.array([[np.nan, 0, 0]])
    for query, gallery in ((bad, good), (good[:1], bad)):
        with pytest.raises(InputError, match="features must be finite numbers"):
            rank(query, gallery, [0], [0, 1][: len(gallery)])
    with pytest.raises(InputError, match="as wide as the gallery's, 3, got 2"):
        rank(good[:, :2], good, [0, 1], [0, 1])
    with pytest.raises(InputError, match="similarities must be numbers, got NaN"):
        rank_similarities([[np.nan, 1.0]], [0], [0, 1])
    with pytest.raises(InputError, match="cameras must be given for queries and gallery, or for neither"):
        rank(good, good, [0, 1], [0, 1], query_camera_Q=[0, 0])
    with pytest.raises(InputError, match=r"cameras must be one an identity, \(2,\), got \(1,\)"):
        rank(good, good, [0, 1], [0, 1], query_camera_Q=[0], gallery_camera_G=[0, 0])
    with pytest.raises(InputError, match="similarities must be queries x 3"):
        rank(good, good, [0, 1], [0, 1, 2])
    with pytest.raises(InputError, match="of 3 queries, got 2"):
        rank(good, good, [0, 1, 1], [0, 1])
    with pytest.raises(InputError, match="of 1 queries, got more"):
        rank(good, good, [0], [0, 1])
