"""Reader, writers, label builder and checker of the Refer-KITTI layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refsweep.datasets.layouts.refer_kitti import LABELS_FILE, NOT_SCORED, PUBLISHED_SPLITS, ReferKitti, normalise
from refsweep.datasets.layouts.refer_kitti_check import check
from refsweep.datasets.layouts.refer_kitti_write import VideoLabels, build_labels, ground_truth
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("left-cars-in-light-color", "left car in light-color"),
        ("light-color-vehicles-in-the-left", "light-color car in the left"),
        ("left-persons-who-are-walking", "left pedestrian who are walking"),
        ("left-cars-which-are-in-light-colors", "left car which are in light-color"),
        ("females", "women"),
    ],
)
def test_expressions_are_normalised(raw: str, text: str):
    assert normalise(raw) == text


def test_the_published_pairs_are_what_we_score(shared: Path):
    """The 150 pairs of the benchmark: no left-out expression, and no video beyond our test split."""
    pairs = [line.split("+") for line in (shared / "data/kitti/refer_kitti_test_seqmap.txt").read_text().split()]
    assert len(pairs) == 150
    assert {video for video, _ in pairs} == set(PUBLISHED_SPLITS["test"])
    assert not {raw for _, raw in pairs} & NOT_SCORED


def test_splits_do_not_overlap_and_hold_the_published_test_videos():
    names = [video for videos in PUBLISHED_SPLITS.values() for video in videos]
    assert len(names) == len(set(names)) == 18
    assert PUBLISHED_SPLITS["test"] == ("0005", "0011", "0013")


def two_cars() -> VideoLabels:
    """Car 1 in frames 0, 1, 2 and car 2 in frame 1; box x1 tells frame and id."""
    frame, number = np.array([0, 1, 2, 1]), np.array([1, 1, 1, 2])
    box = np.stack([10.0 * frame + number, frame * 0.0, 10.0 * frame + number + 5, frame + 5.0], 1)
    return VideoLabels("0001", (100, 50), frame, number, np.array(["car"] * 4), box)


def test_conventions_differ_in_whose_ids_a_row_lists_not_in_its_boxes():
    referred = {0: [1], 1: [2]}
    aligned = ground_truth(two_cars(), referred, "aligned").splitlines()
    published = ground_truth(two_cars(), referred, "published").splitlines()
    # row f always holds boxes of image f (x = 10 f + id) ...
    assert aligned == ["0,1,1.000,0.000,5.000,5.000,1,1,1,0", "1,2,12.000,0.000,5.000,6.000,1,1,1,0"]
    # ... of the ids of key f, or of key f-1: frame 0 is absent, and object 2 has no box in image 2
    assert published == ["1,1,11.000,0.000,5.000,6.000,1,1,1,1"]


def test_labels_built_from_kitti_and_expressions_agree_with_the_reader(tmp_path: Path):
    store = Store(str(tmp_path / "data"))
    rows = [
        "0 1 Car 0 0 0 10.0 5.0 30.0 25.0 1 1 1 0 0 9 0",
        "1 1 Car 0 0 0 12.0 5.0 32.0 25.0 1 1 1 0 0 9 0",
        "1 2 Pedestrian 0 0 0 50.0 5.0 60.0 25.0 1 1 1 0 0 9 0",
        "0 -1 DontCare 0 0 0 0 0 1 1 1 1 1 0 0 9 0",
    ]
    Store(str(tmp_path / "label_02")).write("0001.txt", "\n".join(rows).encode())
    expression = {"label": {"1": [1]}, "sentence": "moving cars"}
    store.write("expression/0001/moving-cars.json", json.dumps(expression).encode())
    counts = build_labels(store, Store(str(tmp_path / "label_02")), "aligned")
    assert counts == {"videos": 1, "expressions": 1, "objects": 2, "boxes": 3}
    labels = json.loads(store.read(LABELS_FILE))
    assert labels["0001"]["1"]["1"]["expression_new"] == ["moving car"]
    assert labels["0001"]["1"]["0"]["expression_new"] == []
    np.testing.assert_allclose(labels["0001"]["2"]["1"]["bbox"], [50 / 1242, 5 / 375, 10 / 1242, 20 / 375], atol=1e-6)
    truth = ReferKitti(store).truth("0001", "moving-cars")
    assert (truth.frame_N.tolist(), truth.id_N.tolist()) == ([1], [1])
    np.testing.assert_allclose(truth.xyxy_N4, [[12, 5, 32, 25]])


def test_ids_that_do_not_match_labels_with_ids_are_all_reported(tmp_path: Path):
    store = Store(str(tmp_path / "data"))
    Store(str(tmp_path / "label_02")).write(
        "0001.txt", b"0 1 Car 0 0 0 10 5 30 25 1 1 1 0 0 9 0\n0 2 Car 0 0 0 50 5 60 25 1 1 1 0 0 9 0\n"
    )
    store.write("expression/0001/cars.json", json.dumps({"label": {"0": [1]}}).encode())
    x = [10 / 1242, 5 / 375, 20 / 1242, 20 / 375]
    moved = [x[0] + 0.1, *x[1:]]
    ids = Store(str(tmp_path / "ids"))
    lines = [f"0 1 {' '.join(map(str, moved))}", f"0 3 {' '.join(map(str, x))}"]
    ids.write("0001/000000.txt", "\n".join(lines).encode())
    with pytest.raises(DataError) as caught:
        build_labels(store, Store(str(tmp_path / "label_02")), "aligned", ids)
    text = "\n".join(str(p) for p in caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "id 1: its box differs" in text
    assert "id 2: is in KITTI's labels only" in text
    assert "id 3: is not in KITTI's labels" in text
    assert not store.exists(LABELS_FILE)


def test_truth_from_labels_equals_the_template(made: Path, made_copy: Path):
    """Where the template is missing, ground truth is built from labels and expressions: the same boxes."""
    with_template = ReferKitti(Store(str(made)))
    Store(str(made_copy)).delete("gt_template")
    without = ReferKitti(Store(str(made_copy)))
    for video in with_template.videos("test"):
        for raw in with_template.expressions(video):
            a, b = with_template.truth(video, raw), without.truth(video, raw)
            order_a, order_b = np.lexsort((a.id_N, a.frame_N)), np.lexsort((b.id_N, b.frame_N))
            assert a.frame_N[order_a].tolist() == b.frame_N[order_b].tolist()
            assert a.id_N[order_a].tolist() == b.id_N[order_b].tolist()
            np.testing.assert_allclose(a.xyxy_N4[order_a], b.xyxy_N4[order_b], atol=2e-3)


def test_pedestrian_ids_follow_those_of_cars(made_copy: Path):
    video = ReferKitti(Store(str(made_copy))).videos("test")[0]
    folder = made_copy / "tracks" / video
    (folder / "car" / "predict.txt").write_text("3,7,1,1,5,5,0.9,-1,-1,-1\n")
    (folder / "pedestrian" / "predict.txt").write_text("2,4,1,1,5,5\n1,4,1,1,5,5\n")
    tracks = ReferKitti(Store(str(made_copy))).tracks(video)
    assert tracks.id_N.tolist() == [7, 11, 11]
    assert tracks.frame_N.tolist() == [3, 1, 2]
    assert tracks.category_N.tolist() == ["car", "pedestrian", "pedestrian"]
    (folder / "car" / "predict.txt").write_text("")
    assert ReferKitti(Store(str(made_copy))).tracks(video).id_N.tolist() == [4, 4]


def test_made_data_has_no_problem(made: Path):
    findings = check(Store(str(made)))
    assert findings.problems == []
    assert findings.counts["videos"] == 6
    assert findings.counts["frames"] == 6 * 24
    assert min(findings.counts.values()) > 0


def break_labels(change: Callable[[dict, str, str, str], None]) -> Callable[[Path], None]:
    """Edits one object's one frame of one training video in Refer-KITTI_labels.json."""

    def apply(root: Path) -> None:
        labels = json.loads((root / LABELS_FILE).read_text())
        video = json.loads((root / "splits.json").read_text())["train"][0]
        number = next(iter(labels[video]))
        change(labels, video, number, next(iter(labels[video][number])))
        (root / LABELS_FILE).write_text(json.dumps(labels))

    return apply


def a_frame(root: Path) -> Path:
    return sorted((root / "KITTI/training/image_02").rglob("*.png"))[5]


def an_expression(root: Path) -> Path:
    return sorted((root / "expression").rglob("*.json"))[0]


def duplicate_track(root: Path) -> None:
    video = json.loads((root / "splits.json").read_text())["test"][0]
    path = root / "tracks" / video / "car" / "predict.txt"
    first = path.read_text().splitlines()[0]
    path.write_text(f"{first}\n{path.read_text()}")


def label_beyond(labels: dict, video: str, number: str, frame: str) -> None:
    labels[video][number]["999"] = labels[video][number][frame]


def leave(root: Path) -> None:
    splits = json.loads((root / "splits.json").read_text())
    splits["test"] = ["../../etc"]
    (root / "splits.json").write_text(json.dumps(splits))


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing frame": (lambda root: a_frame(root).unlink(), "000005.png: frame is missing"),
    "truncated frame": (lambda root: a_frame(root).write_bytes(a_frame(root).read_bytes()[:900]), "won't decode"),
    "label without frame": (break_labels(label_beyond), "/999: label without a frame"),
    "box outside": (
        break_labels(lambda labels, v, n, f: labels[v][n][f].update(bbox=[0.9, 0.1, 0.4, 0.1])),
        "box outside the frame",
    ),
    "empty box": (
        break_labels(lambda labels, v, n, f: labels[v][n][f].update(bbox=[0.1, 0.1, 0.0, 0.1])),
        "must have a positive width",
    ),
    "bbox of three": (
        break_labels(lambda labels, v, n, f: labels[v][n][f].update(bbox=[0.1, 0.1, 0.2])),
        "must map frames to",
    ),
    "duplicate track": (duplicate_track, "duplicate ids: track"),
    "duplicate key": (
        lambda root: an_expression(root).write_text('{"label": {"3": [1], "3": [2]}}'),
        "duplicate ids: key '3' stands twice",
    ),
    "path escape": (leave, "must stay inside"),
    "empty expression": (
        lambda root: an_expression(root).rename(an_expression(root).with_name("-.json")),
        "empty expression",
    ),
    "no positive": (lambda root: an_expression(root).write_text('{"label": {}}'), "no positive example"),
    "broken json": (lambda root: an_expression(root).write_text("{"), "not JSON"),
    "unknown object": (
        lambda root: an_expression(root).write_text('{"label": {"0": [12345]}}'),
        "objects [12345] have no box",
    ),
    "no tracks": (
        lambda root: [p.unlink() for p in (root / "tracks").rglob("predict.txt")],
        "predict.txt: missing",
    ),
    "no labels": (lambda root: (root / LABELS_FILE).unlink(), "missing"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_fault_is_found_with_its_place(name: str, made_copy: Path):
    break_it, message = BREAKS[name]
    break_it(made_copy)
    findings = check(Store(str(made_copy)))
    lines = [str(p) for p in findings.problems + findings.warnings]
    assert any(message in line for line in lines), lines[:10]


def test_no_data_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="expression/ is missing or empty"):
        ReferKitti(Store(str(tmp_path))).videos("train")


def test_an_unknown_split_is_refused_with_the_choices(made: Path):
    with pytest.raises(InputError, match="train, calibration, validation, test, got 'val'"):
        ReferKitti(Store(str(made))).videos("val")
