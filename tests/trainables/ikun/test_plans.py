"""What iKUN looks at: the drawn windows, expressions and labels, and the arrays that rows become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from refsweep.datasets.frames.cache import FrameCache
from refsweep.datasets.layouts.refer_kitti import LABELS_FILE, LabelledObject, ReferKitti, frame_folder, normalise
from refsweep.datasets.problems import DataError
from refsweep.datasets.storage.store import Store
from refsweep.trainables.ikun import Config
from refsweep.trainables.ikun import task as ikun
from refsweep.trainables.ikun.data import LabelledTrack, Reader, TrainingSet, training_plan
from refsweep.trainables.ikun.windows import geometry
from refsweep.trainables.metrics.tracking import Boxes

SMALL = ikun.Config(tower="conv-tiny", weights=None, crop_px=32, frame_px=48, feature_dim=16, windows_per_track=3)
MANY = Config(windows_per_track=40, expressions_per_window=4)


@pytest.fixture(scope="module")
def data(made: Path) -> ReferKitti:
    return ReferKitti(Store(str(made)))


@pytest.fixture(scope="module")
def training(data: ReferKitti) -> TrainingSet:
    return TrainingSet(data, data.videos("train"), 8)


def drawn(training: TrainingSet, config: Config, seed: int = 0) -> pa.Table:
    return training_plan(training.tracks, config, np.random.default_rng(seed))


def column(plan: pa.Table, name: str, *shape: int) -> NDArray[Any]:
    return np.array(plan.column(name).to_pylist()).reshape(plan.num_rows, *shape)


Looked = tuple[LabelledObject, list[int]]  # an object and the indices of its frames


def looked(plan: pa.Table, data: ReferKitti) -> list[Looked]:
    """The object and the frames that each row looks at, by its boxes."""
    where = {
        (thing.video, frame, *box): (thing, index)
        for video in data.videos("train")
        for thing in data.objects(video)
        for index, (frame, box) in enumerate(zip(thing.frame_F.tolist(), thing.xyxy_F4.tolist(), strict=True))
    }
    looks = []
    frames, boxes = column(plan, "frame", 2).tolist(), column(plan, "box", 2, 4).tolist()
    for video, frame, box in zip(plan.column("video").to_pylist(), frames, boxes, strict=True):
        things, indices = zip(*[where[(video, f, *b)] for f, b in zip(frame, box, strict=True)], strict=True)
        assert len({(t.video, t.id) for t in things}) == 1
        looks.append((things[0], list(indices)))
    return looks


def labelled(thing: LabelledObject) -> list[int]:
    """Indices of the frames in which an object has expressions."""
    return [i for i, expressions in enumerate(thing.expressions) if expressions]


def test_every_track_appears_as_often_as_asked(data: ReferKitti):
    seen: dict[tuple[str, int], int] = {}
    for thing, _ in looked(ikun.Task(SMALL, data).plan("train", 0, 0), data):
        seen[thing.video, thing.id] = seen.get((thing.video, thing.id), 0) + 1
    things = [t for video in data.videos("train") for t in data.objects(video) if len(labelled(t)) > 8]
    assert seen == {(t.video, t.id): 3 for t in things}
    assert len(seen) < sum(len(data.objects(video)) for video in data.videos("train"))


def test_frames_lie_in_their_halves_of_a_window_of_the_track(training: TrainingSet, data: ReferKitti):
    steps, starts_at_end = set(), False
    for thing, indices in looked(drawn(training, MANY), data):
        frames = labelled(thing)
        first, second = (frames.index(i) for i in indices)
        starts = [s for s in range(len(frames) - 7) if s <= first < s + 4 <= second < s + 8]
        assert starts
        steps.add(second - first)
        starts_at_end |= second == len(frames) - 1
    assert steps == set(range(1, 8))
    assert starts_at_end


def test_labels_are_those_of_the_objects_expressions(training: TrainingSet, data: ReferKitti):
    plan = drawn(training, MANY)
    expressions, labels = column(plan, "expression", 4).tolist(), column(plan, "label", 4).tolist()
    for (thing, indices), row, label in zip(looked(plan, data), expressions, labels, strict=True):
        assert label in [[float(training.texts[e] in thing.expressions[i]) for e in row] for i in indices]


@pytest.mark.parametrize("share", [None, 1 / 3])
def test_all_labels_of_a_row_are_those_of_one_frame_and_either_may_give_them(share: float | None):
    # in frame f expression f % 3 holds, of 0, 1, 2
    frame_F = np.arange(20)
    boxes = Boxes(frame_F, np.ones(20, np.int64), np.zeros((20, 4)))
    fits = tuple(np.array([f % 3]) for f in frame_F)
    track = LabelledTrack("0001", boxes, np.zeros((20, 8), np.float32), fits, np.arange(3))
    config = Config(windows_per_track=200, expressions_per_window=3, positive_share=share)
    plan = training_plan([track], config, np.random.default_rng(0))
    given_by = [0, 0]
    for frames, row, label in zip(
        column(plan, "frame", 2), column(plan, "expression", 3), column(plan, "label", 3), strict=True
    ):
        positive = row[label > 0]
        assert len(positive) == 1
        assert positive[0] in frames % 3
        for look in range(2):
            given_by[look] += frames[look] % 3 == positive[0] and frames[1 - look] % 3 != positive[0]
    assert min(given_by) > 40


def test_geometry_is_that_of_the_boxes_looked_at(training: TrainingSet, data: ReferKitti):
    plan = drawn(training, Config())
    for (thing, indices), where in zip(looked(plan, data), column(plan, "geometry", 2, 8), strict=True):
        boxes = Boxes(thing.frame_F, np.full(len(thing.frame_F), thing.id), thing.xyxy_F4)
        assert where == pytest.approx(geometry(boxes, data.size(thing.video), 4)[indices])


@pytest.mark.parametrize("share", [None, 0.0, 0.5, 1.0])
def test_expressions_are_distinct_candidates_of_the_video(share: float | None, training: TrainingSet, data: ReferKitti):
    plan = drawn(training, replace(MANY, positive_share=share))
    seen: set[tuple[str, str]] = set()
    for video, row in zip(plan.column("video").to_pylist(), column(plan, "expression", 4), strict=True):
        seen |= {(video, training.texts[e]) for e in row}
        assert share == 1.0 or len(set(row)) > 1
        assert share is not None or len(set(row)) == 4
    candidates = {
        (video, normalise(e)) for video in data.videos("train") for e in data.expressions(video, scored=False)
    }
    assert seen <= candidates
    assert share is not None or seen == candidates


def test_all_labels_are_positive_at_share_1_and_none_at_0(training: TrainingSet):
    assert column(drawn(training, replace(MANY, positive_share=1.0)), "label", 4).min() == 1
    assert column(drawn(training, replace(MANY, positive_share=0.0)), "label", 4).max() == 0


def test_half_of_the_pairs_are_positive_at_share_one_half(training: TrainingSet):
    four = column(drawn(training, replace(MANY, positive_share=0.5)), "label", 4)
    assert (four.sum(1) == 2).all()
    one = column(drawn(training, Config(windows_per_track=60, positive_share=0.5)), "label", 1)
    assert one.mean() == pytest.approx(0.5, abs=0.03)


def test_without_a_share_positives_come_at_their_base_rate(training: TrainingSet):
    rates = []
    for track in training.tracks:
        share = [len(fits) / len(track.candidates) for fits in track.fits]
        rates.append(np.mean([np.mean(share[s : s + 8]) for s in range(len(share) - 7)]))
    assert 0.1 < np.mean(rates) < 0.45
    assert column(drawn(training, MANY), "label", 4).mean() == pytest.approx(np.mean(rates), abs=0.02)


def test_texts_and_shares_are_those_of_all_labelled_boxes(training: TrainingSet, data: ReferKitti):
    positives = [
        text
        for video in data.videos("train")
        for thing in data.objects(video)
        for texts in thing.expressions
        for text in texts
    ]
    assert training.texts == sorted(set(positives))
    assert training.share == pytest.approx([positives.count(text) / len(positives) for text in training.texts])


def rewrite(folder: Path, keep: dict[tuple[str, str], int], rest: int) -> ReferKitti:
    """The data set with expressions in only the first frames of each object: `keep` of these, `rest` of others."""
    path = folder / LABELS_FILE
    labels = json.loads(path.read_text())
    for video, things in labels.items():
        for key, frames in things.items() if isinstance(things, dict) else ():
            with_text = [f for f in sorted(frames, key=int) if frames[f]["expression_new"]]
            for frame in with_text[keep.get((video, key), rest) :]:
                frames[frame] |= {"expression_new": [], "expression_raw": []}
    path.write_text(json.dumps(labels))
    return ReferKitti(Store(str(folder)))


def test_tracks_with_eight_labelled_frames_or_fewer_are_dropped(training: TrainingSet, made_copy: Path):
    video = training.tracks[0].video
    nine, eight = (str(t.boxes.id_N[0]) for t in training.tracks[:2])
    cut = rewrite(made_copy, {(video, nine): 9, (video, eight): 8}, 0)
    tracks = TrainingSet(cut, cut.videos("train"), 8).tracks
    assert [(t.video, t.boxes.id_N.tolist()) for t in tracks] == [(video, [int(nine)] * 9)]


@pytest.mark.parametrize("frames", [0, 8])
def test_data_without_positives_is_refused(frames: int, made_copy: Path):
    with pytest.raises(DataError, match="no positive example"):
        ikun.Task(SMALL, rewrite(made_copy, {}, frames)).plan("train", 0, 0)


@pytest.mark.parametrize("least", [0.08, 0.5, 0.8, 0.95])
def test_crop_windows_stay_in_the_square_at_their_area_and_ratio(least: float, training: TrainingSet):
    plan = drawn(training, replace(MANY, crop_scale=least))
    for name in ("crop_window", "frame_window"):
        left, top, width, height = column(plan, name, 2, 4).reshape(-1, 4).T
        assert min(left.min(), top.min()) >= 0
        assert max((left + width).max(), (top + height).max()) <= 1 + 1e-9
        assert (width * height).min() >= least - 1e-9
        assert 0.8 - 1e-9 <= (width / height).min() < (width / height).max() <= 1 + 1e-9
        assert (width * height).max() > 1 - 0.2 * (1 - least)


def test_crops_and_frames_are_cut_independently(training: TrainingSet):
    plan = drawn(training, MANY)
    crop, frame = column(plan, "crop_window", 8).ravel(), column(plan, "frame_window", 8).ravel()
    assert abs(np.corrcoef(crop[2::4], frame[2::4])[0, 1]) < 0.1
    assert abs(np.corrcoef(crop[2::8], crop[6::8])[0, 1]) < 0.1


def test_crop_scale_1_takes_the_whole(training: TrainingSet):
    plan = drawn(training, Config(crop_scale=1.0))
    for name in ("crop_window", "frame_window"):
        np.testing.assert_array_equal(column(plan, name, 2, 4), np.tile([0.0, 0, 1, 1], (plan.num_rows, 2, 1)))


def slow_square(path: Path, xyxy: list[float] | None, side: int) -> NDArray[np.uint8]:
    """Cut, pad to a square with black, resize."""
    image = Image.open(path).convert("RGB")
    if xyxy is not None:
        x1, y1, x2, y2 = (int(v) for v in xyxy)
        image = image.crop((max(0, x1), max(0, y1), min(image.width, x2), min(image.height, y2)))
    long = max(image.size)
    padded = Image.new("RGB", (long, long), "black")
    padded.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
    return np.asarray(padded.resize((side, side), Image.Resampling.BILINEAR))


def test_training_rows_are_read_as_by_a_slow_crop(training: TrainingSet, made: Path):
    plan = drawn(training, Config(crop_scale=1.0, expressions_per_window=3)).slice(0, 4)
    arrays = Reader(32, 48, FrameCache(16))(plan, Store(str(made)))
    shapes: dict[str, Any] = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    assert shapes == {
        "crop": ((4, 2, 32, 32, 3), np.uint8),
        "frame": ((4, 2, 48, 48, 3), np.uint8),
        "geometry": ((4, 2, 8), np.float32),
        "expression": ((4, 3), np.int64),
        "label": ((4, 3), np.float32),
    }
    for row, video in enumerate(plan.column("video").to_pylist()):
        for look in range(2):
            number, box = column(plan, "frame", 2)[row, look], column(plan, "box", 2, 4)[row, look].tolist()
            path = made / frame_folder(video) / f"{number:06d}.png"
            np.testing.assert_array_equal(arrays["crop"][row, look], slow_square(path, box, 32))
            np.testing.assert_array_equal(arrays["frame"][row, look], slow_square(path, None, 48))
