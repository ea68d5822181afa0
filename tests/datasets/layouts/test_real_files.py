"""Data sets as they lie on people's disks: files of operating systems, encodings, odd rows, ids without boxes."""

from __future__ import annotations

import codecs
import json
import pickle  # noqa: TID251  what Ray does to an error of a worker
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refsweep.datasets import discovery
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.frames.cache import open_frames
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.layouts import cuhk_pedes, orbench
from refsweep.datasets.layouts.cuhk_pedes import PersonText
from refsweep.datasets.layouts.orbench import Orbench
from refsweep.datasets.layouts.refer_kitti import FRAMES, LABELS_FILE, ReferKitti
from refsweep.datasets.layouts.refer_kitti_check import check
from refsweep.datasets.layouts.refer_kitti_parse import read_mot
from refsweep.datasets.layouts.refer_kitti_write import build_labels
from refsweep.datasets.layouts.shared import kitti
from refsweep.datasets.layouts.shared.annotations import named_path, read_json
from refsweep.datasets.problems import DataError, InputError, Problem
from refsweep.datasets.storage.store import Store
from refsweep.tests.datasets.layouts import test_cuhk_pedes as people
from refsweep.tests.datasets.layouts import test_orbench as several
from refsweep.tests.help import tree

LABEL = "3 7 Car 0.00 1 -1.57 100.0 50.5 200.0 120.25 1.5 1.6 4.0 -2.0 1.7 20.0 -1.57"


@pytest.fixture(params=["refer-kitti", "cuhk-pedes", "orbench"])
def any_data(request: pytest.FixtureRequest, tmp_path: Path, made: Path) -> Path:
    """A small sound data set in each layout."""
    folder = tmp_path / "data"
    if request.param == "refer-kitti":
        return Path(shutil.copytree(made, folder))
    folder.mkdir()
    if request.param == "cuhk-pedes":
        people.write(folder, people.items())
    else:
        several.write(folder, several.OFFICIAL)
    return folder


def litter(root: Path) -> None:
    """What macOS and Windows leave, in every folder."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
        for path in [path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "T", "d"))]:
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    shutil.copytree(root, root.with_name("copy"))
    shutil.move(root.with_name("copy"), root / "__MACOSX")


def test_leavings_change_nothing_in_any_layout(any_data: Path, tmp_path: Path):
    store = Store(str(any_data))
    layout, before = discovery.check(store)
    frames = list(open_frames(store).walk(""))
    litter(any_data)
    assert discovery.recognise(store) == layout
    after = discovery.check(store)[1]
    assert (after.problems, after.warnings, after.counts) == ([], [], before.counts)
    assert list(open_frames(store).walk("")) == frames
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / ".DS_Store").write_bytes(b"x")
    pack(store, Store(str(tmp_path / "packed")), Packing())
    assert discovery.check(Store(str(tmp_path / "packed")))[1].counts == before.counts
    assert not [path for path in tree(tmp_path / "packed") if "Thumbs" in path or "MACOSX" in path or "._" in path]


@pytest.mark.parametrize("layout", ["cuhk-pedes", "orbench"])
def test_leavings_change_nothing_in_object_storage(layout: str, tmp_path: Path, s3: str):
    folder = tmp_path / "data"
    folder.mkdir()
    if layout == "cuhk-pedes":
        people.write(folder, people.items())
    else:
        several.write(folder, several.OFFICIAL)
    before = discovery.check(Store(str(folder)))
    litter(folder)
    remote = Store(f"{s3}/{tmp_path.name}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: remote.write(*item), tree(folder).items()))
    assert discovery.check(remote) == before
    assert fingerprint(remote) == fingerprint(Store(str(folder)))


def test_a_link_out_of_a_data_set_is_refused_by_check_and_pack(any_data: Path, tmp_path: Path):
    store = Store(str(any_data))
    files = [path for path, _ in store.walk()]
    frame = discovery.layout(discovery.recognise(store)).frame_files(store, files)[2]
    secret = tmp_path / "secret"
    shutil.move(any_data / frame, secret)
    (any_data / frame).symlink_to(secret)
    out = tmp_path / "packed"
    with pytest.raises(InputError, match=r"must stay inside .* got a link that leads to .*secret"):
        pack(store, Store(str(out)), Packing())
    assert not out.exists() or not [path for path in tree(out) if path.endswith((".parquet", ".png", ".jpg"))]
    assert any("got a link that leads to" in str(problem) for problem in discovery.check(store)[1].problems)


def reencoded(path: Path, encoding: str, mark: bytes = b"") -> None:
    path.write_bytes(mark + path.read_text().encode(encoding))


def test_text_with_a_mark_windows_ends_and_blanks_is_read_as_without(any_data: Path):
    store = Store(str(any_data))
    before = discovery.check(store)[1]
    for path in any_data.rglob("*"):
        if path.suffix in (".json", ".txt"):
            text = path.read_text()
            if path.suffix == ".txt":
                text = "\r\n" + "".join(f"{line}  \r\n\r\n" for line in text.splitlines())
            path.write_bytes(codecs.BOM_UTF8 + text.encode())
    after = discovery.check(store)[1]
    assert (after.problems, after.warnings, after.counts) == (before.problems, before.warnings, before.counts)


def test_utf_16_is_named(any_data: Path):
    path = next(p for p in sorted(any_data.rglob("*.json")) if p.name not in ("made.json", "splits.json"))
    reencoded(path, "utf-16")
    problems = [str(problem) for problem in discovery.check(Store(str(any_data)))[1].problems]
    assert f"{path.relative_to(any_data)}: must be UTF-8 text, got UTF-16: save it as UTF-8" in problems


# -- rows ----------------------------------------------------------------------------------------------------


def test_rows_of_mot_files_as_tools_write_them():
    plain = read_mot("1,2,3,4,5,6,0.5,-1,-1,-1\n", "f").tolist()
    assert plain == [[1, 2, 3, 4, 5, 6, 0.5]]
    for text in ("1.0,2.0,3,4,5,6,0.5,-1,-1,-1,\r\n", "\n 1 , 2, 3,4,5,6,.5, -1,-1,-1 \n\n"):
        assert read_mot(text, "f").tolist() == plain
    assert read_mot("1,2,3,4,5,6", "f").tolist() == [[1, 2, 3, 4, 5, 6, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4,5", "f:1: a row must have 6 to 10 columns, got 5"),
        ("1 2 3 4 5 6", "f:1: a row must have 6 to 10 columns, got 1"),
        ("1,2,3,4,5,6,1,-1,-1,-1,7", "f:1: a row must have 6 to 10 columns, got 11"),
        ("1,2,3,4,5,6,1,-1,-1,-1\n2,2,3,4,5,6", "f:2: a row must have 10 columns as line 1 has, got 6"),
        ("1.5,2,3,4,5,6", "f:1: frame must be a whole number >= 0, got 1.5"),
        ("-1,2,3,4,5,6", "f:1: frame must be a whole number >= 0, got -1"),
        ("1,2.5,3,4,5,6", "f:1: id must be a whole number >= -1, got 2.5"),
        ("1,-2,3,4,5,6", "f:1: id must be a whole number >= -1, got -2"),
        ("1,1e300,3,4,5,6", "f:1: id must be a whole number >= -1, got 1e300"),
        ("nan,2,3,4,5,6", "f:1: frame must be a whole number >= 0, got nan"),
        ("1,2,3,x,5,6", "f:1: could not convert"),
        ("1,2,3,inf,5,6", "f:1: box and score must be finite"),
        ("1,2,3,4,5,6\n2,2,3,4,5,6\n1,2,3,4,5,6", "f:3: duplicate ids: track 2 has 2 boxes in frame 1, the first in"),
    ],
)
def test_a_bad_row_is_named_with_its_line(text: str, message: str):
    with pytest.raises(DataError) as caught:
        read_mot(text, "f")
    assert str(caught.value).startswith(message)


def test_rows_of_kitti_labels_as_tools_write_them():
    plain = kitti.read_labels(LABEL, "f")
    for text in (LABEL.replace("3 7", "3.0 7.0"), f"\r\n{LABEL.replace(' ', '  ')}  \r\n\r\n"):
        rows = kitti.read_labels(text, "f")
        assert (rows.frame_N.tolist(), rows.id_N.tolist()) == ([3], [7])
        np.testing.assert_array_equal(rows.xyxy_N4, plain.xyxy_N4)
    for text, message in (
        (LABEL.replace("3 7", "3.5 7"), "f:1: frame must be a whole number >= 0, got 3.5"),
        (f"{LABEL}\n{LABEL} 0.5", "f:2: a row must have 17 columns as line 1 has, got 18"),
        ("1 2 Car", "f:1: a row must have 17 to 19 columns, got 3"),
    ):
        with pytest.raises(DataError, match=message):
            kitti.read_labels(text, "f")


# -- ids of tracks -------------------------------------------------------------------------------------------


def tracked(root: Path, cars: list[int], walkers: list[int]) -> tuple[list[int], list[int]]:
    """Ids that tracks get whose files hold these, each in frames 0 and 1: of cars, of pedestrians."""
    data = ReferKitti(Store(str(root)))
    video = data.videos("test")[0]
    for category, ids in (("car", cars), ("pedestrian", walkers)):
        lines = [f"{frame},{i},10,10,20,20,0.9,-1,-1,-1\n" for i in ids for frame in (0, 1)]
        (root / "tracks" / video / category / "predict.txt").write_text("".join(lines))
    found = data.tracks(video)
    return tuple(sorted(set(found.id_N[found.category_N == c].tolist())) for c in ("car", "pedestrian"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("cars", "walkers", "ids"),
    [
        ([1, 2], [1, 2], ([1, 2], [3, 4])),  # as ever
        ([1, 7], [4], ([1, 7], [11])),
        ([0, 1], [0, 1], ([0, 1], [2, 3])),
        ([1], [0], ([1], [2])),
        ([0], [1, 2], ([0], [1, 2])),
        ([0], [0], ([0], [1])),
        ([], [0, 5], ([], [0, 5])),
        ([3], [], ([3], [])),
        ([-1, 0, 4], [-1, 0], ([0, 4], [5])),
        ([-1], [0, 1], ([], [0, 1])),
    ],
)
def test_a_car_and_a_pedestrian_never_share_an_id(
    cars: list[int], walkers: list[int], ids: tuple[list[int], list[int]], made_copy: Path
):
    assert tracked(made_copy, cars, walkers) == ids


def test_boxes_without_an_identity_are_a_warning_and_nobodys_fault(made_copy: Path):
    video = ReferKitti(Store(str(made_copy))).videos("test")[0]
    path = made_copy / "tracks" / video / "car" / "predict.txt"
    columns = path.read_text().splitlines()[0].count(",") + 1
    row = ",".join(["3,-1,10,10,20,20", *["-1"] * (columns - 6)])
    path.write_text(path.read_text() + f"{row}\n{row}\n")
    before, found = check(Store(str(made_copy))).counts, check(Store(str(made_copy)))
    assert found.problems == []
    assert [str(w).partition(": left out: ")[2][:37] for w in found.warnings] == [
        "2 boxes without an identity (-1): tra"
    ]
    assert found.counts == before


def test_duplicates_within_a_frame_are_refused_where_they_are_read(made_copy: Path):
    data = ReferKitti(Store(str(made_copy)))
    video, raw = data.videos("test")[0], data.expressions(data.videos("test")[0])[0]
    for path, read in (
        (f"tracks/{video}/pedestrian/predict.txt", lambda: data.tracks(video)),
        (f"gt_template/{video}/{raw}/gt.txt", lambda: data.truth(video, raw)),
    ):
        text = (made_copy / path).read_text() or "0,4,1,1,5,5,1,1,1,0\n"
        (made_copy / path).write_text(text + text.splitlines()[0] + "\n")
        with pytest.raises(DataError, match=f"{path}:.* duplicate ids: "):
            read()
        assert any(str(p).startswith(f"{path}:") for p in check(Store(str(made_copy))).problems)


def test_the_same_id_or_frame_written_twice_in_json_is_refused(made_copy: Path):
    store = Store(str(made_copy))
    data = ReferKitti(store)
    video = data.videos("train")[0]
    raw = data.expressions(video)[0]
    content = json.loads((made_copy / LABELS_FILE).read_text())
    number = next(iter(content[video]))
    for key in (f"0{number}", f"{number}.0"):
        changed = {**content, video: {**content[video], key: content[video][number]}}
        (made_copy / LABELS_FILE).write_text(json.dumps(changed))
        with pytest.raises(DataError, match=f"duplicate ids: object {number} stands twice"):
            ReferKitti(store).objects(video)
    path = made_copy / "expression" / video / f"{raw}.json"
    for text in ('{"label": {"3": [1], "3.0": [2]}}', '{"label": {"3": [1], "3": [2]}}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"duplicate ids: .*3'? stands twice"):
            ReferKitti(store).referred(video, raw)
    path.write_text('{"label": {"3": [1.5]}}')
    with pytest.raises(DataError, match=r"id must be a whole number, got 1\.5"):
        ReferKitti(store).referred(video, raw)


# -- what is left out ----------------------------------------------------------------------------------------


def kitti_rows(*, frames: int = 2) -> bytes:
    rows = [f"{f} {i} Car 0 0 0 10 5 30 25 1 1 1 0 0 9 0" for f in range(frames) for i in (1, 2)]
    return "\n".join(rows).encode()


def test_a_dangling_id_is_left_out_and_counted_alike_by_labels_and_check(made_copy: Path, tmp_path: Path):
    store = Store(str(made_copy))
    before = check(store)
    video = ReferKitti(store).videos("train")[0]
    path = sorted((made_copy / "expression" / video).glob("*.json"))[0]
    content = json.loads(path.read_text())
    frame = next(iter(content["label"]))
    content["label"][frame].append(12345)
    content["label"]["99999"] = [content["label"][frame][0]]
    path.write_text(json.dumps(content))
    found = check(store)
    assert (found.problems, found.counts) == ([], before.counts | {"dangling_ids": 2})
    (warning,) = found.warnings
    assert warning.where == f"expression/{video}/{path.name}"
    assert "2 times: 12345 in frame" in warning.what
    # the label builder, for the same kind of expressions, says the same
    built, told = Store(str(tmp_path / "built")), list[str]()
    Store(str(tmp_path / "label_02")).write("0001.txt", kitti_rows())
    expression = {"label": {"0": [1, 77], "1": [2], "9": [1]}}
    built.write("expression/0001/cars.json", json.dumps(expression).encode())
    counts = build_labels(built, Store(str(tmp_path / "label_02")), "aligned", warn=told.append)
    assert counts["dangling_ids"] == 2
    assert told == [
        "expression/0001/cars.json: left out: objects [1, 77] have no box there: 2 times: 77 in frame 0, 1 in frame 9"
    ]
    for number in range(10):
        home = tmp_path / "built" / FRAMES / "0001"
        home.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1242, 375)).save(home / f"{number:06d}.png", compress_level=1)
    (tmp_path / "built" / "splits.json").write_text(
        json.dumps({"train": ["0001"], "calibration": [], "validation": [], "test": []})
    )
    again = check(built, decode=False)
    assert [str(w) for w in again.warnings] == told
    assert again.counts["dangling_ids"] == 2
    assert ReferKitti(built).truth("0001", "cars").id_N.tolist() == [1, 2]


def test_an_expression_whose_only_id_dangles_does_not_refuse_the_data(made_copy: Path):
    video = ReferKitti(Store(str(made_copy))).videos("train")[0]
    path = sorted((made_copy / "expression" / video).glob("*.json"))[0]
    path.write_text('{"label": {"0": [12345]}}')
    assert check(Store(str(made_copy))).problems == []


def edited(root: Path, change: Callable[[dict[str, Any]], None]) -> tuple[str, str, str]:
    """Changes one object's one frame in the labels; its video, object and frame."""
    content = json.loads((root / LABELS_FILE).read_text())
    video = ReferKitti(Store(str(root))).videos("train")[0]
    number = max(content[video], key=lambda n: len(content[video][n]))
    frame = sorted(content[video][number], key=int)[0]
    change(content[video][number][frame])
    (root / LABELS_FILE).write_text(json.dumps(content))
    return video, number, frame


@pytest.mark.parametrize("empty", [[], None])
def test_an_empty_bbox_or_category_is_a_warning_with_its_place(empty: Any, made_copy: Path):
    video, number, frame = edited(made_copy, lambda entry: entry.update(bbox=empty))
    found = check(Store(str(made_copy)))
    assert found.problems == []
    assert f"{LABELS_FILE}: {video}/{number}/{frame}: left out: bbox is empty" in [str(w) for w in found.warnings]
    (thing,) = (t for t in ReferKitti(Store(str(made_copy))).objects(video) if t.id == int(number))
    assert int(frame) not in thing.frame_F


def test_an_empty_category_is_a_warning_and_a_broken_bbox_names_its_frame(made_copy: Path):
    content = json.loads((made_copy / LABELS_FILE).read_text())
    video = ReferKitti(Store(str(made_copy))).videos("train")[0]
    number = next(iter(content[video]))
    for entry in content[video][number].values():
        entry["category"] = []
    (made_copy / LABELS_FILE).write_text(json.dumps(content))
    found = check(Store(str(made_copy)))
    assert (found.problems, [str(w) for w in found.warnings]) == (
        [],
        [f"{LABELS_FILE}: {video}/{number}: has no category"],
    )
    video, number, frame = edited(made_copy, lambda entry: entry.update(bbox=[0.1, 0.2, 0.3]))
    assert any(
        str(p).startswith(f"{LABELS_FILE}: {video}/{number}/{frame}: must map frames to")
        for p in check(Store(str(made_copy))).problems
    )


def test_an_object_without_any_box_is_one_line(made_copy: Path):
    content = json.loads((made_copy / LABELS_FILE).read_text())
    video = ReferKitti(Store(str(made_copy))).videos("train")[0]
    number = max(content[video], key=lambda n: len(content[video][n]))
    frames = sorted(map(int, content[video][number]))
    for entry in content[video][number].values():
        entry["bbox"] = []
    (made_copy / LABELS_FILE).write_text(json.dumps(content))
    found = check(Store(str(made_copy)))
    lines = [str(warning) for warning in found.warnings if "bbox" in warning.what]
    first = ", ".join(map(str, frames[:3]))
    assert lines == [f"{LABELS_FILE}: {video}/{number}: left out: bbox is empty in {len(frames)} frames: {first}, ..."]


def test_an_error_of_a_data_worker_arrives_as_it_was():
    error = DataError([Problem("a.txt:1", "wrong"), Problem("b.png", "frame is missing")])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.problems) == (str(error), error.problems)


def test_videos_that_no_split_takes_are_named(made_copy: Path):
    splits = json.loads((made_copy / "splits.json").read_text())
    left = splits["train"].pop()
    (made_copy / "splits.json").write_text(json.dumps(splits))
    (made_copy / "expression" / "README.md").write_text("notes")
    found = check(Store(str(made_copy)))
    assert found.problems == []
    assert [str(w) for w in found.warnings] == [f"splits.json: left out: videos in no split: {left}"]


def test_many_missing_frames_are_one_line(made_copy: Path):
    video = ReferKitti(Store(str(made_copy))).videos("test")[0]
    for number in range(3, 15):
        (made_copy / FRAMES / video / f"{number:06d}.png").unlink()
    lines = [str(p) for p in check(Store(str(made_copy))).problems]
    assert f"{FRAMES}/{video}/: 12 frames are missing: 000003.png, 000004.png, 000005.png, ..." in lines
    assert len(lines) < 30


def test_many_missing_pictures_are_one_line_a_folder(tmp_path: Path):
    rows = [
        {"split": split, "captions": ["A man."], "file_path": f"cam_{n % 2}/{split}{n}.jpg", "id": 1000 * s + n}
        for s, split in enumerate(("train", "val", "test"))
        for n in range(1000)
    ]
    store = people.write(tmp_path, rows, pictures=False)
    for decode in (True, False):
        found = cuhk_pedes.check(store, decode=decode)
        assert [str(p) for p in found.problems] == [
            f"imgs/cam_{cam}/: 1500 images are missing that reid_raw.json names: train{cam}.jpg, train{cam + 2}.jpg, "
            f"train{cam + 4}.jpg, ..."
            for cam in (0, 1)
        ]
        assert found.counts["missing_images"] == 3000
        assert found.counts["captions_of_several_identities"] == 1


def test_many_pictures_that_will_not_decode_are_one_line_with_the_first_reason(tmp_path: Path):
    store = several.write(tmp_path, several.OFFICIAL)
    for path in (tmp_path / "test/vis/0011").iterdir():
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (problem,) = orbench.check(store).problems
    assert str(problem).startswith(
        "test/vis/0011/: 2 images won't decode: 0011_src_c03_0.jpg, 0011_src_c03_1.jpg (the first"
    )
    several.edit(tmp_path, lambda c: [item.update(file_path=f"vis/0001/{n}.jpg") for n, item in enumerate(c)] and None)
    (problem,) = orbench.check(store).problems
    assert str(problem) == (
        "train/vis/0001/: 5 images are missing that train/text_annos.json names: 0.jpg, 1.jpg, 2.jpg, ..."
    )


def test_captions_of_several_identities_are_counted(tmp_path: Path):
    store = several.write(tmp_path, several.OFFICIAL)
    assert orbench.check(store).counts["captions_of_several_identities"] == 0
    several.edit(tmp_path, lambda content: [item.update(caption="A man.") for item in content[:3]] and None)
    assert orbench.check(store).counts["captions_of_several_identities"] == 1


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [("cam_a\\1.jpg", "cam_a/1.jpg"), ("./cam_a/./1.jpg", "cam_a/1.jpg"), (".\\a\\\\b//c.jpg", "a/b/c.jpg")],
)
def test_paths_of_other_systems_are_read(path: str, cleaned: str):
    assert named_path(path) == cleaned


@pytest.mark.parametrize(
    "path", ["..\\x.jpg", "a\\..\\..\\x", "C:\\x.jpg", "c:x.jpg", "\\x.jpg", ".//x", ".", "", "a/../x", "a\0"]
)
def test_paths_that_could_leave_the_folder_stay_refused(path: str):
    with pytest.raises(InputError, match="path must stay inside its folder, got"):
        named_path(path)


def test_annotations_with_paths_of_windows_are_read(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows = people.items()
    store = people.write(tmp_path / "a", rows)
    for item in rows:
        item["file_path"] = ".\\" + item["file_path"].replace("/", "\\")
    (tmp_path / "a" / "reid_raw.json").write_text(json.dumps(rows))
    assert cuhk_pedes.check(store).problems == []
    assert PersonText(store).paths[0] == "imgs/cam_a/1_0.jpg"
    store = several.write(tmp_path / "b", several.OFFICIAL)
    several.edit(tmp_path / "b", lambda c: [i.update(file_path=i["file_path"].replace("/", "\\")) for i in c] and None)
    assert orbench.check(store).problems == []
    assert Orbench(store).samples("train").num_rows == 30


def test_json_that_is_nested_too_deeply_is_one_sentence(tmp_path: Path):
    store = Store(str(tmp_path))
    store.write("deep.json", b"[" * 200_000)
    with pytest.raises(DataError, match=r"^deep\.json: not JSON"):
        read_json(store, "deep.json")


def test_ids_that_labels_with_ids_hold_in_odd_rows_are_named(tmp_path: Path):
    built, ids = Store(str(tmp_path / "built")), Store(str(tmp_path / "ids"))
    Store(str(tmp_path / "label_02")).write("0001.txt", kitti_rows(frames=1))
    built.write("expression/0001/cars.json", b'{"label": {"0": [1]}}')
    built.write("expression/.DS_Store", b"\0")
    built.write("expression/0001/._cars.json", b"\0")
    box = f"{10 / 1242} {5 / 375} {20 / 1242} {20 / 375}"
    ids.write("0001/000000.txt", f"0 1 {box}\r\n0 2.0 {box}  \r\n\r\n".encode())
    ids.write("0001/Thumbs.db", b"\0")
    assert build_labels(built, Store(str(tmp_path / "label_02")), "aligned", ids)["boxes"] == 2
    ids.write("0001/000000.txt", b"0 1 0.1 0.1")
    ids.write("0001/notes.txt", b"")
    with pytest.raises(DataError) as caught:
        build_labels(built, Store(str(tmp_path / "label_02")), "aligned", ids)
    text = str(caught.value)
    assert "labels_with_ids/0001/000000.txt:1: a row must have 6 columns, got 4" in text
    assert (
        "labels_with_ids/0001/notes.txt: the name of a file <frame>.txt must be a whole number >= 0, got notes" in text
    )
