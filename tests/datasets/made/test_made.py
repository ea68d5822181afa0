"""Made driving scenes: geometry by hand, determinism, real label files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.layouts.refer_kitti import PUBLISHED_SPLITS, ReferKitti
from refsweep.datasets.layouts.refer_kitti_check import check
from refsweep.datasets.layouts.shared import kitti
from refsweep.datasets.made.driving.expressions import expressions_of
from refsweep.datasets.made.driving.scene import (
    CAMERA_HEIGHT,
    CENTRE_X,
    CENTRE_Y,
    FOCAL,
    Actor,
    Look,
    Scene,
    project,
)
from refsweep.datasets.made.driving.traffic import procedural
from refsweep.datasets.made.driving.trajectories import estimate_ego_speed, from_labels
from refsweep.datasets.made.refer_kitti import Recipe, make
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store


def test_a_cuboid_straight_ahead_projects_by_hand():
    """2 m wide, 4 m long, 1.5 m high, centre 20 m ahead: its near face, 18 m away, bounds it."""
    box = project(np.array([0.0]), np.array([20.0]), np.array([0.0]), (1.5, 2.0, 4.0))[0]
    half = FOCAL * 1.0 / 18
    top, bottom = CENTRE_Y + FOCAL * (CAMERA_HEIGHT - 1.5) / 22, CENTRE_Y + FOCAL * CAMERA_HEIGHT / 18
    np.testing.assert_allclose(box, [CENTRE_X - half, top, CENTRE_X + half, bottom], rtol=1e-9)


def actor(number: int, *, colour: str, x: float, heading: float, speed: float, kind: str = "Car") -> Actor:
    frames = np.arange(20)
    box = project(np.full(20, x), np.full(20, 15.0), np.full(20, heading), (1.5, 1.6, 4.0))
    return Actor(
        id=number,
        kind=kind,
        look=Look(colour=colour, trousers="black", female=True, bag=False),
        frame_F=frames,
        xyxy_F4=box,
        depth_F=np.full(20, 15.0),
        lateral_F=np.full(20, x),
        heading_F=np.full(20, heading),
        speed_F=np.full(20, speed),
        forward_F=np.full(20, speed * np.cos(heading)),
        occluded_F=np.zeros(20, np.int64),
    )


def test_expressions_are_true_by_geometry():
    left = actor(0, colour="black", x=-4.0, heading=np.pi, speed=8.0)
    right = actor(1, colour="white", x=4.0, heading=0.0, speed=0.0)
    ahead = actor(2, colour="red", x=0.0, heading=0.0, speed=12.0)
    woman = actor(3, colour="red", x=6.0, heading=0.0, speed=1.4, kind="Pedestrian")
    scene = Scene(
        video="1", n_frames=20, size=(1242, 375), ego_speed_F=np.full(20, 8.0), actors=(left, right, ahead, woman)
    )
    ids_of: dict[str, set[int]] = {}
    for seed in range(40):  # every test video draws its own selection
        for raw, frames in expressions_of(scene, np.random.default_rng(seed), test=True, most=999).items():
            assert set(frames) == set(range(20))
            ids_of[raw] = {number for ids in frames.values() for number in ids}
    want = {
        "left-cars-in-black": {0},
        "cars-in-light-color": {1},
        "cars-in-the-counter-direction-of-ours": {0},
        "cars-in-the-same-direction-of-ours": {2},  # car 1 is parked
        "parking-cars": {1},
        "moving-cars": {0, 2},
        "cars-in-front-of-ours": {2},
        "cars-which-are-faster-than-ours": {2},
        "cars-in-right": {1},
        "women": {3},
        "walking-females": {3},
        "white-cars-in-the-right": {1},
    }
    assert {raw: ids_of.get(raw) for raw in want} == want
    assert "standing-women" not in ids_of
    assert "cars-in-silver" not in ids_of


def test_some_expressions_are_in_test_videos_only(tmp_path: Path):
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = procedural("1", 40, rng)
        for test in (True, False):
            seen[test] |= set(expressions_of(scene, rng, test=test, most=999))
    assert {"white-cars-in-the-left", "standing-men", "moving-pedestrian"} <= seen[True] - seen[False]
    assert len(seen[True] & seen[False]) > 50


def test_ego_speed_lies_between_those_who_drive_away_and_those_who_come():
    def relative(number: int, heading: float, rate: float) -> Actor:
        made = actor(number, colour="red", x=3.0, heading=heading, speed=0.0)
        return made.__class__(
            **{n: getattr(made, n) for n in made.__dataclass_fields__ if n != "forward_F"}, forward_F=np.full(20, rate)
        )

    parked, leading, coming = relative(0, 0.0, -10.0), relative(1, 0.0, 1.0), relative(2, np.pi, -22.0)
    np.testing.assert_allclose(estimate_ego_speed([parked, leading, coming], 20), 10.0, atol=2.0)
    np.testing.assert_allclose(estimate_ego_speed([coming], 20), 22.0)
    assert estimate_ego_speed([], 5).tolist() == [0.0] * 5


def test_the_same_recipe_makes_the_same_data_and_another_seed_other_data(tmp_path: Path):
    prints = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(Store(str(tmp_path / name)), Recipe(videos=4, frames=16, width=104, expressions=6, seed=seed))
        prints.append(fingerprint(Store(str(tmp_path / name))))
        frame = next((tmp_path / name).rglob("000003.png"))
        prints.append(frame.read_bytes())
    assert prints[0:2] == prints[2:4]
    assert prints[0] != prints[4]


def test_the_fingerprint_follows_annotations_and_frames(made_copy: Path):
    store = Store(str(made_copy))
    before = fingerprint(store)
    expression = next((made_copy / "expression").rglob("*.json"))
    content = expression.read_text()
    expression.write_text(content + " ")
    assert fingerprint(store) != before
    expression.write_text(content)
    assert fingerprint(store) == before
    next(made_copy.rglob("000001.png")).unlink()
    assert fingerprint(store) != before


def test_a_folder_that_holds_something_is_not_written_to(made: Path):
    with pytest.raises(InputError, match="must be empty or new"):
        make(Store(str(made)), Recipe(videos=4, frames=16))


@pytest.mark.parametrize(("field", "value"), [("videos", 3), ("frames", 2), ("width", 10), ("seed", -1)])
def test_a_bad_recipe_is_refused(field: str, value: int):
    with pytest.raises(InputError, match=f"{field} must be >= "):
        Recipe(**{field: value})


def test_a_scene_follows_real_labels_box_by_box(shared: Path):
    text = (shared / "data/kitti/label_02/0011.txt").read_text()
    rows = kitti.read_labels(text, "0011")
    scene = from_labels("0011", rows, 373, np.random.default_rng(0))
    assert len(scene.actors) == 60
    boxes = sum(len(a.frame_F) for a in scene.actors)
    assert boxes == (rows.id_N >= 0).sum()
    assert 0 < scene.ego_speed_F.max() < 25
    moving = [a.moving for a in scene.actors if a.kind == "Car"]
    assert 0.1 < np.mean(moving) < 0.95
    some = scene.actors[5]
    mine = rows.take(rows.id_N == some.id)
    np.testing.assert_allclose(some.xyxy_F4, mine.xyxy_N4[np.argsort(mine.frame_N)])


def test_data_made_from_real_labels_and_tracks_is_sound(shared: Path, tmp_path: Path):
    """Two training videos and one of each other kind: the published names, real boxes, real tracks for cars."""
    labels, tracks = tmp_path / "labels", tmp_path / "tracks"
    labels.mkdir()
    tracks.mkdir()
    for video in ("0003", "0012", "0010", "0013"):
        (labels / f"{video}.txt").write_text((shared / "data/kitti/label_02" / f"{video}.txt").read_text())
        source = shared / "data/kitti/tracks/YOLOX-STRONG-SORT" / f"{video}.txt"
        (tracks / f"{video}.txt").write_text(source.read_text())
    out = Store(str(tmp_path / "out"))
    make(out, Recipe(width=208, kitti_labels=str(labels), kitti_tracks=str(tracks)))
    findings = check(out)
    assert [p for p in findings.problems if "box outside" not in p.what] == []
    data = ReferKitti(out)
    assert {s: list(data.videos(s)) for s in PUBLISHED_SPLITS} == {
        "train": ["0003"],
        "calibration": ["0012"],
        "validation": ["0010"],
        "test": ["0013"],
    }
    real = kitti.read_labels((tracks / "0013.txt").read_text(), "0013")
    cars = data.tracks("0013")
    scale = 208 / 1242
    np.testing.assert_allclose(
        np.sort(cars.xyxy_N4[cars.category_N == "car"][:, 0]), np.sort(real.xyxy_N4[:, 0]) * scale, atol=2e-3
    )
    size = json.loads(out.read("made.json"))
    assert size["from_kitti_labels"] is True
