"""HOTA and the table that ranks settings, against TrackEval and against slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator
from refsweep.trainables.metrics.tracking import (
    Boxes,
    Sequence2D,
    auc,
    hota,
    iou,
    match,
    precision_recall,
    trackeval_scores,
)
from refsweep.trainables.posthoc.hota_table import Pair, tabulate
from scipy.stats import spearmanr


def tracks(rng: Generator, objects: int, frames: int, jitter: float, split: float, drop: float) -> tuple[Boxes, Boxes]:
    """Truth, and a tracker's noisy view of it."""
    truth, seen = [], []
    for number in range(objects):
        start, stop = sorted(rng.choice(frames, 2, replace=False))
        x, y = rng.uniform(0, 300, 2)
        for frame in range(start, stop + 1):
            x, y = x + rng.normal(0, 3), y + rng.normal(0, 1)
            truth.append((frame, number, x, y, x + 40, y + 30))
            if rng.random() > drop:
                box = np.array([x, y, x + 40, y + 30]) + rng.normal(0, jitter, 4)
                seen.append((frame, 100 + number + (50 if rng.random() < split else 0), *box))
    return boxes(truth), boxes(list({(r[0], r[1]): r for r in seen}.values()))


def boxes(rows: list[tuple]) -> Boxes:
    table = np.array(rows, float).reshape(-1, 6)
    order = np.lexsort((table[:, 0], table[:, 1]))
    return Boxes(table[order, 0].astype(int), table[order, 1].astype(int), table[order, 2:])


def sequences(seed: int, count: int = 6) -> list[Sequence2D]:
    rng = np.random.default_rng(seed)
    made = [tracks(rng, int(rng.integers(1, 7)), 20, 4.0, 0.1, 0.2) for _ in range(count)]
    return [Sequence2D(seen, truth) for truth, seen in made]


def test_iou_by_hand():
    a = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    b = np.array([[5.0, 0, 15, 10], [0, 0, 10, 10], [100, 100, 101, 101]])
    np.testing.assert_allclose(iou(a, b), [[50 / 150, 1, 0], [0, 0, 0]])


def test_matching_is_one_to_one_and_takes_the_largest_sum():
    truth = boxes([(0, 1, 0, 0, 10, 10), (0, 2, 4, 0, 14, 10), (1, 1, 0, 0, 10, 10)])
    seen = boxes([(0, 8, 3, 0, 13, 10), (0, 9, 4, 0, 14, 10), (2, 9, 0, 0, 10, 10)])
    matches = match(seen, truth)
    # track 9 sits on object 2; track 8 overlaps object 2 more than object 1, yet must take 1
    assert truth.id_N[matches.row_N[seen.id_N == 8]].tolist() == [1]
    assert truth.id_N[matches.row_N[(seen.id_N == 9) & (seen.frame_N == 0)]].tolist() == [2]
    assert matches.row_N[seen.frame_N == 2].tolist() == [-1]


@pytest.mark.parametrize("seed", range(6))
def test_hota_is_trackevals(seed: int):
    some = sequences(seed)
    some.append(Sequence2D(boxes([]), some[0].truth))
    some.append(Sequence2D(some[1].predicted, boxes([])))
    ours, theirs = hota(some), trackeval_scores(some, ["HOTA"])
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9)


def test_perfect_tracks_score_100_and_no_tracks_0():
    truth = sequences(0)[0].truth
    assert hota([Sequence2D(truth, truth)])["hota"] == pytest.approx(100)
    assert hota([Sequence2D(boxes([]), truth)])["hota"] == 0
    assert hota([]) == {"hota": 0, "deta": 0, "assa": 0}
    full = trackeval_scores([Sequence2D(truth, truth)])
    assert full["mota"] == pytest.approx(100)
    assert full["idf1"] == pytest.approx(100)


def test_hota_of_a_split_identity_by_hand():
    """One object of 4 frames, tracked perfectly by one id for 2 and another for 2: DetA 1, AssA 2/(4+2-2)."""
    truth = boxes([(f, 1, 0, 0, 10, 10) for f in range(4)])
    seen = boxes([(f, 1 + (f > 1), 0, 0, 10, 10) for f in range(4)])
    figures = hota([Sequence2D(seen, truth)])
    assert figures["deta"] == pytest.approx(100)
    assert figures["assa"] == pytest.approx(50)
    assert figures["hota"] == pytest.approx(100 * 0.5**0.5)


def pairs_of(seed: int, videos: int = 3, expressions: int = 8) -> tuple[list[Pair], list[Boxes]]:
    """Expressions that each refer to some objects, with scores that know a little of it."""
    rng = np.random.default_rng(seed)
    pairs, truths = [], []
    for _ in range(videos):
        truth, seen = tracks(rng, 8, 30, 3.0, 0.05, 0.15)
        matches = match(seen, truth)
        object_n = np.where(matches.row_N >= 0, truth.id_N[matches.row_N], -1)
        for _ in range(expressions):
            wanted = rng.choice(8, int(rng.integers(1, 5)), replace=False)
            fits = np.isin(object_n, wanted)
            per_track = {t: rng.normal(0, 0.7) for t in np.unique(seen.id_N)}
            score = fits + np.array([per_track[t] for t in seen.id_N]) + rng.normal(0, 0.2, len(seen))
            part = truth.take(np.isin(truth.id_N, wanted))
            pairs.append(Pair(seen, matches, object_n, fits, part.id_N, score))
            truths.append(part)
    return pairs, truths


def test_the_table_at_a_level_is_the_slow_count():
    pairs, _ = pairs_of(0, videos=1, expressions=2)
    table = tabulate(pairs)
    for p, pair in enumerate(pairs):
        for v in (0, 20, 50):
            kept = pair.score_N > table.level_V[v]
            assert table.boxes_PV[p, v] == kept.sum()
            for a, alpha in ((0, 0.05), (9, 0.5), (17, 0.9)):
                hit = kept & pair.fits_N & (pair.matches.iou_N >= alpha)
                assert table.hits_PVA[p, v, a] == hit.sum()
                quality = 0.0
                for number in np.unique(pair.object_N[hit]):
                    for track in np.unique(pair.tracked.id_N[hit]):
                        n = (hit & (pair.object_N == number) & (pair.tracked.id_N == track)).sum()
                        union = (pair.truth_ids == number).sum() + (kept & (pair.tracked.id_N == track)).sum() - n
                        quality += n**2 / union
                assert table.quality_PVA[p, v, a] == pytest.approx(quality)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_table_ranks_settings_as_trackeval_does(seed: int):
    pairs, truths = pairs_of(seed)
    table = tabulate(pairs)
    rng = np.random.default_rng(seed)
    base = rng.uniform(-1.5, 1.8, (40, 1))
    threshold = base + rng.normal(0, 0.2, (40, len(pairs)))
    rough = table.hota(threshold)
    exact = [
        trackeval_scores(
            [Sequence2D(p.tracked.take(p.score_N > t), g) for p, t, g in zip(pairs, row, truths, strict=True)], ["HOTA"]
        )["hota"]
        for row in threshold
    ]
    assert spearmanr(rough, exact).statistic >= 0.98
    assert int(np.argmax(exact)) in np.argsort(-rough)[:5]


def test_a_threshold_above_all_scores_keeps_nothing_and_below_all_everything():
    pairs, truths = pairs_of(3, videos=1)
    table = tabulate(pairs)
    low, high = table.hota(np.array([[-99.0] * len(pairs), [99.0] * len(pairs)]))
    assert high == 0
    everything = hota([Sequence2D(p.tracked, g) for p, g in zip(pairs, truths, strict=True)])["hota"]
    assert low == pytest.approx(everything, abs=2.0)


def test_auc_by_hand_with_ties():
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(0.75)
    assert auc(np.array([0.5, 0.5]), np.array([False, True])) == pytest.approx(0.5)
    assert np.isnan(auc(np.array([0.5]), np.array([True])))


def test_precision_and_recall_by_hand():
    kept, label = np.array([True, True, False, False]), np.array([True, False, True, True])
    figures = precision_recall(kept, label)
    assert figures["precision"] == pytest.approx(50)
    assert figures["recall"] == pytest.approx(100 / 3)
