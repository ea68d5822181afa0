"""The post-hoc search: settings ranked a second, and whether the ranking is TrackEval's."""

from __future__ import annotations

import tempfile

import numpy as np
from scipy.stats import spearmanr

from ..datasets.layouts.refer_kitti import ReferKitti
from ..datasets.made.refer_kitti import Recipe, make
from ..datasets.storage.store import Store
from ..trainables.ikun.config import Config
from ..trainables.ikun.evaluate import Scored
from ..trainables.ikun.truth import VideoTruth, window_labels
from ..trainables.metrics.tracking import trackeval_scores
from ..trainables.posthoc.hota_table import tabulate
from .common import publish, seconds

SETTINGS, COMPARED = 20_000, 40


def main() -> None:
    """Scores of a mediocre model on the test videos of made data; thresholds at random for each pair."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        make(Store(folder), Recipe(videos=22, frames=60))
        data = ReferKitti(Store(folder))
        videos = [VideoTruth.load(data, v, Config()) for v in data.videos("test")]
    scores = []
    for video in videos:
        label_WE = np.zeros((len(video.windows), len(video.texts)))
        label_WE[:, video.text_of_P] = window_labels(video).T
        of_track = rng.normal(0, 0.5, (int(video.tracked.id_N.max()) + 1, len(video.texts)))
        scores.append(
            label_WE + of_track[video.tracked.id_N[video.windows.start_W]] + rng.normal(0, 0.2, label_WE.shape)
        )
    scored = Scored(videos, scores, strict_bounds=False)
    pairs = scored.table_pairs()
    table = tabulate(pairs)
    threshold_SP = rng.uniform(-0.5, 1.5, (SETTINGS, 1)) + rng.normal(0, 0.15, (SETTINGS, len(pairs)))
    rank_s = seconds(lambda: table.hota(threshold_SP))
    rough = table.hota(threshold_SP[:COMPARED])
    exact = [trackeval_scores(scored.sequences(t), ["HOTA"])["hota"] for t in threshold_SP[:COMPARED]]
    order = np.argsort(-rough)
    rows = [
        {"figure": f"settings a second, {len(pairs)} pairs", "measured": SETTINGS / rank_s, "target": ">= 10,000"},
        {"figure": "making the table, s", "measured": seconds(lambda: tabulate(pairs)), "target": ""},
        {
            "figure": f"Spearman with TrackEval, {COMPARED} settings",
            "measured": float(spearmanr(rough, exact).statistic),
            "target": ">= 0.98",
        },
        {
            "figure": "place of the exact best in the table's order",
            "measured": float(1 + list(order).index(int(np.argmax(exact)))),
            "target": "<= 5",
        },
    ]
    publish("posthoc", "post-hoc search", rows)
