"""iKUN's Task over real plans: which boxes are scored, with what score, and how the setting is chosen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refsweep.datasets.frames.cache import FrameCache, square
from refsweep.datasets.layouts.refer_kitti import ReferKitti
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import Arrays, cut
from refsweep.trainables.ikun import task as ikun
from refsweep.trainables.ikun.baselines import gap_closed
from refsweep.trainables.ikun.data import Reader, scoring_plan
from refsweep.trainables.ikun.model import channels_first
from refsweep.trainables.ikun.truth import VideoTruth, window_labels
from refsweep.trainables.ikun.windows import windows_of
from refsweep.trainables.metrics.tracking import Boxes
from torch import Tensor

Floats = NDArray[np.float32]
pytestmark = pytest.mark.usefixtures("one_thread")


def config(**changed: object) -> ikun.Config:
    small = {"tower": "conv-tiny", "weights": None, "crop_px": 32, "frame_px": 32, "feature_dim": 16}
    return ikun.Config(**{**small, **changed})


@pytest.fixture(scope="module")
def task(made: Path) -> ikun.Task:
    return make_task(made)


def make_task(folder: Path, **changed: object) -> ikun.Task:
    """A task with a random model whose scores differ."""
    torch.manual_seed(0)
    task = ikun.Task(config(**changed), ReferKitti(Store(str(folder))))
    for parameter in task.model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    task.model.eval()
    return task


def videos_of(task: ikun.Task, split: str) -> list[VideoTruth]:
    return [task.video(name) for name in task.data.videos(split)]


def test_a_scoring_plan_covers_every_looked_box_once_in_the_order_of_frames(task: ikun.Task):
    for split in task.eval_splits:
        plan = task.plan(split, 0, 0)
        for video in videos_of(task, split):
            rows = [row for row in plan.to_pylist() if row["video"] == video.video]
            covered = [box for row in rows for box in row["row"]]
            assert sorted(covered) == np.unique(video.windows.looked_WT).tolist()
            assert len(covered) < len(video.tracked)
            assert [row["frame"] for row in rows] == sorted({row["frame"] for row in rows})
            for row in rows:
                assert set(video.tracked.frame_N[row["row"]]) == {row["frame"]}
                np.testing.assert_array_equal(row["box"], video.tracked.xyxy_N4[row["row"]].ravel())
                np.testing.assert_array_equal(row["geometry"], video.geometry_N8[row["row"]].ravel())


def test_a_scoring_plan_of_nothing_has_no_rows():
    nothing = Boxes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)))
    assert scoring_plan("0001", nothing, windows_of(nothing, 8, 4, 2), np.zeros((0, 8), np.float32)).num_rows == 0


def test_scoring_rows_are_read_with_all_their_crops(task: ikun.Task):
    plan, store = task.plan("calibration", 0, 0).slice(2, 3), task.data.store
    arrays = Reader(32, 48, FrameCache(16))(plan, store)
    boxes = [(n, row, box) for n, row in enumerate(plan.to_pylist()) for box in np.array(row["box"]).reshape(-1, 4)]
    shapes: dict[str, Any] = {name: (array.shape, array.dtype) for name, array in arrays.items() if name != "video"}
    assert shapes == {
        "frame": ((3, 48, 48, 3), np.uint8),
        "crop": ((len(boxes), 32, 32, 3), np.uint8),
        "frame_of": ((len(boxes),), np.int64),
        "geometry": ((len(boxes), 8), np.float32),
        "row": ((len(boxes),), np.int64),
        "number": ((3,), np.int64),
    }
    assert arrays["video"].tolist() == plan.column("video").to_pylist()
    assert arrays["number"].tolist() == plan.column("frame").to_pylist()
    assert arrays["row"].tolist() == [r for rows in plan.column("row").to_pylist() for r in rows]
    for crop, frame_of, (number, row, box) in zip(arrays["crop"], arrays["frame_of"], boxes, strict=True):
        image = FrameCache(0).get(store, task.data.frame_path(row["video"], row["frame"]))
        assert frame_of == number
        np.testing.assert_array_equal(crop, square(image, box, 32))
        np.testing.assert_array_equal(arrays["frame"][number], square(image, (0, 0, *image.shape[1::-1]), 48))


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_a_warm_cache_reads_what_a_cold_one_does(split: str, task: ikun.Task):
    plan = task.plan(split, 0, 0).slice(0, 6)
    reader = Reader(32, 32, FrameCache(64))
    cold, warm, none = (r(plan, task.data.store) for r in (reader, reader, Reader(32, 32, FrameCache(0))))
    assert set(cold) == set(warm) == set(none)
    for name in cold:
        np.testing.assert_array_equal(cold[name], warm[name])
        np.testing.assert_array_equal(cold[name], none[name])


@torch.no_grad()
def slow_scores(task: ikun.Task, video: VideoTruth) -> Floats:
    """Each window with each expression, a pair a row, through the model's forward."""
    c, tokens_EL = task.config, task.model.clip.tokenize(video.texts)
    score_WE = np.empty((len(video.windows), len(video.texts)), np.float32)
    for window, looked in enumerate(video.windows.looked_WT):
        crops, frames = [], []
        for row in looked:
            image = FrameCache(0).get(
                task.data.store, task.data.frame_path(video.video, int(video.tracked.frame_N[row]))
            )
            crops.append(square(image, video.tracked.xyxy_N4[row], c.crop_px))
            frames.append(square(image, (0, 0, *image.shape[1::-1]), c.frame_px))
        each = [channels_first(torch.as_tensor(np.stack(x))) for x in (crops, frames)]
        local, whole = (x.expand(len(tokens_EL), *x.shape) for x in each)
        place_TG = torch.as_tensor(video.geometry_N8[looked])
        where = place_TG.expand(len(tokens_EL), *place_TG.shape) if c.geometry else None
        score_WE[window] = task.model(local, whole, tokens_EL, where).logit_B
    return score_WE


@pytest.fixture(scope="module")
def two_videos(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made data with two videos to calibrate on."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    splits = json.loads((made / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps(splits | {"calibration": ["0005", "0004"]}))
    return folder


@pytest.mark.parametrize(("mode", "geometry"), [("cascade", True), ("text_first", False)])
def test_predictions_are_the_scores_of_single_pairs_however_the_plan_is_cut(
    mode: str, geometry: bool, two_videos: Path
):
    task = make_task(two_videos, kum_mode=mode, geometry=geometry)
    plan, store = task.plan("calibration", 0, 0), task.data.store
    slow = np.concatenate([slow_scores(task, video).ravel() for video in videos_of(task, "calibration")])
    assert slow[: 10 * 47].reshape(47, 10).std(0).mean() > 0.01
    spanning = 0
    for size in (1, 5, 16, plan.num_rows):
        predict, parts = task.predictor(), cut(plan, size, 0, "calibration")
        batches = [predict(task.read(part.rows, store)) for part in parts]
        spanning += any(len(set(part.rows.column("video").to_pylist())) == 2 for part in parts)
        np.testing.assert_allclose(np.concatenate([f["score"] for f in batches]), slow, atol=1e-5)
    assert spanning >= 2


def random_predictions(task: ikun.Task, seed: int) -> dict[str, Arrays]:
    rng = np.random.default_rng(seed)
    sizes = {s: sum(len(v.windows) * len(v.texts) for v in videos_of(task, s)) for s in task.eval_splits}
    return {split: {"score": rng.uniform(-1, 1, size).astype(np.float32)} for split, size in sizes.items()}


def test_a_threshold_keeps_everything_or_nothing(task: ikun.Task):
    predictions = random_predictions(task, 0)
    everything = task.evaluate(predictions, {"a": 0.0, "tau": 10.0, "threshold": -1.0})
    nothing = task.evaluate(predictions, {"a": 0.0, "tau": 10.0, "threshold": 1.0})
    assert everything.metrics["recall"] == 100
    assert nothing.metrics["recall"] == nothing.metrics["hota"] == 0
    assert everything.metrics["auc"] == nothing.metrics["auc"] == task.evaluate(predictions).metrics["auc"]


def oracle(video: VideoTruth) -> Floats:
    """1 for windows that an expression fits, else -1."""
    fits_PW = window_labels(video)
    score_WE = np.full((len(video.windows), len(video.texts)), -1, np.float32)
    for fits_W, text in zip(fits_PW, video.text_of_P, strict=True):
        score_WE[fits_W, text] = 1
    return score_WE


def test_an_oracle_is_far_better_than_constant_scores(task: ikun.Task):
    truth: dict[str, Mapping[str, NDArray]] = {
        split: {"score": np.concatenate([oracle(v).ravel() for v in videos_of(task, split)])}
        for split in task.eval_splits
    }
    constant = {split: {"score": np.zeros_like(arrays["score"])} for split, arrays in truth.items()}
    best, trivial = task.evaluate(truth).metrics, task.evaluate(constant).metrics
    assert set(best) == set(ikun.METRICS)
    assert best["hota"] > trivial["hota"] + 30
    assert (best["auc"], best["precision"], best["recall"]) == (1.0, 100.0, 100.0)
    assert trivial["auc"] == 0.5


def losses_of(task: ikun.Task, batch: dict[str, Tensor], progress: float = 1.0) -> float:
    with torch.no_grad():
        return float(task.losses(batch, progress)["focal"])


def test_the_loss_is_the_sum_over_single_pairs(made: Path):
    task = make_task(made, kum_mode="cascade", geometry=True, expressions_per_window=3, gamma=2.0, rho=2.0)
    plan = task.plan("train", 0, 0).slice(0, 4)
    batch = {name: torch.tensor(array) for name, array in task.read(plan, task.data.store).items()}
    together = losses_of(task, batch)
    alone = 0.0
    tokens = task.model.clip.tokenize(task.training.texts)
    for row in range(4):
        local, whole = (channels_first(batch[n][row])[None] for n in ("crop", "frame"))
        for expression, label in zip(batch["expression"][row], batch["label"][row], strict=True):
            with torch.no_grad():
                out = task.model(local, whole, tokens[expression][None], batch["geometry"][row][None])
            p = torch.sigmoid(out.logit_B.double()).item()
            alone += -2 * (1 - p) ** 2 * np.log(p) if label else -(p**2) * np.log(1 - p)
    assert together == pytest.approx(alone, rel=1e-4)


def test_a_tower_that_must_not_move_has_a_rate_of_0(made: Path):
    rates = [group.get("lr") for group in make_task(made, tower_lr=0.0).param_groups()]
    assert rates == [0.0, None]
    assert [group.get("lr") for group in make_task(made, lr=0.5).param_groups()] == [0.5, None]


def test_calibration_compares_with_the_expressions_of_a_package(made: Path):
    task = make_task(made)
    of_training = task.prior(task.data.videos("test"))
    facts = {"texts": task.training.texts[:2], "share": [0.9, 0.1]}
    task.restore_facts(facts)
    prior = task.prior(task.data.videos("test"))
    assert task.facts() == facts
    assert prior.share_K.tolist() == [0.9, 0.1]
    np.testing.assert_allclose(prior.train_KD, of_training.train_KD[:2], atol=1e-6)


def test_the_way_from_trivial_answers_to_true_labels_is_a_share():
    trivial = {"hota_every_track": 40.0, "hota_random_track": 20.0, "hota_right_category": 30.0}
    assert gap_closed({**trivial, "hota_true_labels": 80.0, "hota": 50.0}) == 0.25
    assert gap_closed({**trivial, "hota_true_labels": 80.0, "hota": 30.0}) == -0.25
    assert np.isnan(gap_closed({**trivial, "hota_true_labels": 40.0, "hota": 30.0}))
