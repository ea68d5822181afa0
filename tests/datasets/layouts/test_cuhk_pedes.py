"""Reader, writer and checker of CUHK-PEDES, ICFG-PEDES and RSTPReid, and the split of captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.frames.cache import FrameCache
from refsweep.datasets.layouts.cuhk_pedes import SPLITS, PersonText, check
from refsweep.datasets.layouts.cuhk_pedes_write import Item, write_annotations
from refsweep.datasets.layouts.shared.captions import split_caption
from refsweep.datasets.layouts.shared.held_out import halves, take
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store

CAPTION = "A tall man with black hair wears a red shirt."


def items(*, train: int = 6, val: int = 4, test: int = 3) -> list[dict[str, Any]]:
    """Two pictures of each identity, numbered on through the splits from 1."""
    rows: list[dict[str, Any]] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for _ in range(count):
            identity = len(rows) // 2 + 1
            rows += [
                {
                    "split": split,
                    "captions": [f"{CAPTION} {n}"],
                    "file_path": f"cam_a/{identity}_{n}.jpg",
                    "id": identity,
                }
                for n in range(2)
            ]
    return rows


def write(root: Path, content: Any, name: str = "reid_raw.json", *, pictures: bool = True) -> Store:
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    for item in content if pictures and isinstance(content, list) else ():
        path = root / "imgs" / (item.get("file_path") or item["img_path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (10, 200, 30)).save(path)
    return Store(str(root))


def identities(data: PersonText, split: str) -> set[int]:
    return set(data.images(split)["identity"].to_pylist())


@pytest.mark.parametrize(
    ("text", "identity", "clothing"),
    [
        (
            "A tall man with short black hair is wearing red and white shoes, a blue hoodie, and black pants.",
            "A tall man with short black hair",
            "is wearing red and white shoes, a blue hoodie, and black pants.",
        ),
        ("He has a black backpack and short hair.", "He and short hair.", "has a black backpack"),
        ("She is slim. She wears jeans.", "She is slim. She", "wears jeans."),
        # a clause that names both goes to both
        ("The man's shirt is red.", "The man's shirt is red.", "The man's shirt is red."),
        # so does a sentence that names neither; within a sentence such a clause goes with the next one
        (
            "It is raining. A hat, and in green, a coat.",
            "It is raining.",
            "It is raining. A hat, and in green, a coat.",
        ),
        # words of both kinds of things count for clothes where clothing is named
        ("a short skirt", "", "a short skirt"),
        ("short and thin", "short and thin", ""),
        ("", "", ""),
    ],
)
def test_captions_are_split_clause_by_clause(text: str, identity: str, clothing: str):
    assert split_caption(text) == (identity, clothing)


def test_no_word_of_a_caption_is_lost_and_none_is_added():
    rng = np.random.default_rng(0)
    vocabulary = "a man, woman. with and in red; tall shirt hair wearing has boots street! it 5 who carrying thin"
    words = vocabulary.split()
    for _ in range(300):
        text = " ".join(rng.choice(words, int(rng.integers(1, 15))))
        parts = split_caption(text)
        assert split_caption(text) == parts
        bare = [{word.rstrip(",;:") for word in part.split()} for part in (text, *parts)]
        assert bare[0] == bare[1] | bare[2]


def test_splits_are_the_published_ones_and_validation_is_halved(tmp_path: Path):
    data = PersonText(write(tmp_path, items()))
    assert identities(data, "train") == set(range(1, 7))
    assert identities(data, "test") == {11, 12, 13}
    calibration, validation = identities(data, "calibration"), identities(data, "validation")
    assert len(calibration) == len(validation) == 2
    assert calibration | validation == {7, 8, 9, 10}
    again = PersonText(write(tmp_path, list(reversed(items()))))
    assert identities(again, "calibration") == calibration


def test_without_a_validation_split_a_tenth_of_training_is_kept(tmp_path: Path):
    data = PersonText(write(tmp_path, items(train=40, val=0), "ICFG-PEDES.json"))
    held = identities(data, "calibration"), identities(data, "validation")
    assert [len(h) for h in held] == [2, 2]
    assert len(identities(data, "train")) == 36
    assert not identities(data, "train") & (held[0] | held[1])
    assert identities(data, "test") == {41, 42, 43}


def test_what_is_held_out_depends_on_numbers_alone():
    assert take(range(100), 0.1, 2) == take(reversed(range(100)), 0.1, 2)
    assert len(take(range(100), 0.1, 2)) == 10
    assert len(take(range(3), 0.9, 2)) == 2
    assert len(take(range(2), 0.1, 2)) == 1, "one is left to train on"
    first, second = halves(range(7))
    assert (len(first), len(second)) == (4, 3)
    assert first | second == set(range(7))


def test_captions_belong_to_images_not_to_identities(tmp_path: Path):
    """The published code keeps one caption an identity, the last item's first: here each image has its own."""
    content = items()
    content[0]["captions"] = ["A man in a red coat.", "A man wears red."]
    content[1]["captions"] = ["A man in a blue coat."]
    data = PersonText(write(tmp_path, content))
    rows = data.captions("train").slice(0, 3).to_pylist()
    assert [row["image"] for row in rows] == [0, 0, 1]
    assert [row["text"] for row in rows] == ["A man in a red coat.", "A man wears red.", "A man in a blue coat."]
    assert rows[2]["identity_text"] == "A man"
    assert rows[2]["clothing_text"] == "in a blue coat."
    images = data.images("train")
    assert images["path"][rows[2]["image"]].as_py() == "imgs/cam_a/1_1.jpg"
    assert images["identity"][0].as_py() == images["identity"][1].as_py() == 1


@pytest.mark.parametrize("name", ["reid_raw.json", "caption_all.json", "ICFG-PEDES.json", "data_captions.json"])
def test_what_is_written_is_read_in_every_layout(name: str, tmp_path: Path):
    rows = [
        Item(split, identity, f"{identity:04d}_c{identity % 3}_1.jpg", [CAPTION, f"A woman {identity}."])
        for identity, split in enumerate(("train", "train", "train", "val", "val", "test"))
    ]
    store = Store(str(tmp_path))
    write_annotations(store, rows, name)
    assert ("img_path" in (tmp_path / name).read_text()) == (name == "data_captions.json")
    data = PersonText(store)
    assert data.images("test").to_pylist() == [{"path": "imgs/0005_c2_1.jpg", "identity": 5, "camera": 2}]
    assert data.captions("test")["text"].to_pylist() == [CAPTION, "A woman 5."]
    assert data.images("train")["camera"].to_pylist() == [0, 1, 2]


def test_captions_without_a_split_follow_the_published_ids(tmp_path: Path):
    content = [
        {"captions": [CAPTION], "file_path": f"{identity}.png", "id": identity}
        for identity in (1, 11003, 11004, 12003, 12004, 13003)
    ]
    data = PersonText(write(tmp_path, content, "caption_all.json"))
    assert identities(data, "train") == {1, 11003}
    assert identities(data, "calibration") | identities(data, "validation") == {11004, 12003}
    assert identities(data, "test") == {12004, 13003}
    assert data.images("train")["camera"].to_pylist() == [-1, -1]


def test_cameras_are_read_from_names_as_each_data_set_writes_them(tmp_path: Path):
    content = items()
    content[0] |= {"camera": 7}
    content[1]["file_path"] = "Market/0002_c1s1_000451_03.jpg"
    content[2]["file_path"] = "0627/0627_010_05_0303afternoon_1591_0.jpg"
    assert PersonText(write(tmp_path, content)).images("train")["camera"].to_pylist()[:3] == [7, 1, -1]
    (tmp_path / "reid_raw.json").rename(tmp_path / "ICFG-PEDES.json")
    assert PersonText(Store(str(tmp_path))).images("train")["camera"].to_pylist()[:3] == [7, 1, 5]


def test_annotations_may_lie_in_a_folder_of_their_own(tmp_path: Path):
    write(tmp_path, items())
    (tmp_path / "annotations").mkdir()
    (tmp_path / "reid_raw.json").rename(tmp_path / "annotations/reid_raw.json")
    assert PersonText(Store(str(tmp_path))).images("train").num_rows == 12


def test_what_is_left_out_is_counted_and_nothing_else_is(tmp_path: Path):
    content = items()
    content[0]["captions"] = [CAPTION, "", "  ", CAPTION, "Another man."]
    content[2]["captions"] = [""]
    content.append({**content[4], "captions": ["Listed again."]})
    data = PersonText(write(tmp_path, content))
    assert data.skipped() == {
        "empty_captions": 3,
        "repeated_captions": 1,
        "repeated_images": 1,
        "images_without_caption": 1,
    }
    by_image: dict[int, list[str]] = {}
    for row in data.captions("train").to_pylist():
        by_image.setdefault(row["image"], []).append(row["text"])
    assert by_image[0] == [CAPTION, "Another man."]
    assert 2 not in by_image
    assert data.images("train").num_rows == 12, "an image without a caption stays"
    assert by_image[4] == [f"{CAPTION} 0", "Listed again."]


def put(number: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda content: content[number].update(values)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (put(3, split="training"), "item 3: split must be one of train, val, test, got 'training'"),
        (put(3, captions=7), "item 3: captions must be a list of texts, got 7"),
        (put(3, captions=[7]), r"item 3: captions must be a list of texts, got \[7\]"),
        (put(3, id="x1"), "item 3: id must be a whole number >= 0, got 'x1'"),
        (put(3, id=True), "item 3: id must be a whole number >= 0, got True"),
        (put(3, file_path=None), "item 3: file_path or img_path must be text, got None"),
        (put(3, camera=-1), "item 3: camera must be a whole number >= 0, got -1"),
        (put(3, file_path="../../etc/passwd"), "item 3: path must stay inside its folder, got '../../etc/passwd'"),
        (put(3, file_path="/etc/passwd"), "item 3: path must stay inside its folder, got '/etc/passwd'"),
        (put(3, id=13), r"identity 13 is in train \(imgs/cam_a/2_1.jpg\) and in test \(imgs/cam_a/13_0.jpg\)"),
        (put(3, file_path="cam_a/1_0.jpg"), "imgs/cam_a/1_0.jpg is listed twice: as identity 1 in train and as"),
        (lambda content: content.__setitem__(slice(20, None), []), "nothing is left for test: train and test are"),
        (lambda content: content.__setitem__(slice(14, 20), []), "nothing is left for validation: .* two identities"),
        (lambda content: content.__setitem__(3, "text"), "item 3: must map split, captions, .*, got 'text'"),
    ],
)
def test_annotations_with_a_fault_are_refused_with_item_and_rule(fault: Any, message: str, tmp_path: Path):
    content = items()
    fault(content)
    store = write(tmp_path, content, pictures=False)
    with pytest.raises(DataError, match=message) as caught:
        PersonText(store)
    assert str(caught.value).startswith("reid_raw.json")
    assert check(store).problems == list(caught.value.problems)


def test_every_fault_is_said_at_once(tmp_path: Path):
    content = items()
    for number in (1, 5, 9):
        content[number]["id"] = "?"
    with pytest.raises(DataError) as caught:
        PersonText(write(tmp_path, content, pictures=False))
    assert [p.where for p in caught.value.problems] == [f"reid_raw.json: item {n}" for n in (1, 5, 9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "reid_raw.json: not JSON"),
        ('{"train": []}', r"reid_raw.json: must be a list of items .*, got \{'train': \[\]\}"),
        ("[]", r"reid_raw.json: must be a list of items .*, got \[\]"),
    ],
)
def test_a_caption_file_of_another_format_is_refused(text: str, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        PersonText(write(tmp_path, text))


def test_a_folder_without_annotations_says_which_file_is_missing(tmp_path: Path):
    with pytest.raises(DataError, match=r"no annotation file here: one of reid_raw.json, caption_all.json"):
        PersonText(Store(str(tmp_path)))


def test_an_unknown_split_is_refused_with_the_choices(tmp_path: Path):
    data = PersonText(write(tmp_path, items()))
    with pytest.raises(InputError, match="split must be one of train, calibration, validation, test, got 'val'"):
        data.images("val")
    assert all(data.images(split).num_rows for split in SPLITS)


def test_pictures_that_are_missing_or_will_not_decode_are_named_and_nothing_else_is(tmp_path: Path):
    store = write(tmp_path, items())
    sound = check(store)
    assert sound.problems == []
    assert sound.counts["images"] == sound.counts["captions"] == 26
    assert sound.counts["identities"] == 13
    broken, gone = tmp_path / "imgs/cam_a/3_1.jpg", tmp_path / "imgs/cam_a/4_0.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    gone.unlink()
    assert [p.where for p in check(store).problems] == ["imgs/cam_a/4_0.jpg", "imgs/cam_a/3_1.jpg"]
    assert [p.where for p in check(store, decode=False).problems] == ["imgs/cam_a/4_0.jpg"]
    assert [p.what.partition(":")[0] for p in check(store).problems][1] == "image won't decode"
    for path in ("imgs/cam_a/3_1.jpg", "imgs/cam_a/4_0.jpg"):
        with pytest.raises(DataError, match=path):
            FrameCache(1).get(store, path)


def test_a_changed_caption_changes_the_fingerprint(tmp_path: Path):
    content = items()
    before = fingerprint(write(tmp_path, content))
    content[0]["captions"] = ["A woman."]
    assert fingerprint(write(tmp_path, content)) != before
