"""Reader, writer and checker of the ORBench layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refsweep.datasets.layouts.orbench import IMAGE_MODALITIES, MODALITIES, SPLITS, Orbench, check
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store


def write(root: Path, folders: dict[str, range], **item: Any) -> Store:
    """Two `vis` pictures and one of each other modality of each identity, a caption of the first."""
    for folder, numbers in folders.items():
        captions = []
        for number in numbers:
            for modality in IMAGE_MODALITIES:
                home = root / folder / modality / f"{number:04d}"
                home.mkdir(parents=True)
                for shown in range(2 if modality == "vis" else 1):
                    mode = "L" if modality in ("nir", "sk") else "RGB"
                    Image.new(mode, (4, 8)).save(home / f"{number:04d}_src_c03_{shown}.jpg")
            path = f"vis/{number:04d}/{number:04d}_src_c03_0.jpg"
            captions.append({"file_path": path, "caption": f"A man called {number}.", "id": 900 + number, **item})
        (root / folder / "text_annos.json").write_text(json.dumps(captions))
    return Store(str(root))


OFFICIAL = {"train": range(1, 6), "val": range(6, 10), "test": range(10, 13)}


def identities(data: Orbench, split: str) -> set[int]:
    return set(data.samples(split)["identity"].to_pylist())


def edit(root: Path, change: Callable[[list[Any]], None], folder: str = "train") -> None:
    path = root / folder / "text_annos.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_folders_are_splits_and_an_identity_is_its_folder_in_every_modality(tmp_path: Path):
    """The published reader takes the items' `id`, which is numbered anew in each file: here folders count."""
    data = Orbench(write(tmp_path, OFFICIAL))
    assert identities(data, "train") == set(range(1, 6))
    assert identities(data, "test") == {10, 11, 12}
    calibration, validation = identities(data, "calibration"), identities(data, "validation")
    assert len(calibration) == len(validation) == 2
    assert calibration | validation == {6, 7, 8, 9}
    rows = [row for row in data.samples("train").to_pylist() if row["identity"] == 2]
    assert [row["modality"] for row in rows] == ["vis", "vis", "nir", "sk", "cp", "text"]
    assert rows[0] == {
        "modality": "vis",
        "identity": 2,
        "camera": 3,
        "path": "train/vis/0002/0002_src_c03_0.jpg",
        "text": "",
    }
    assert rows[-1] == {"modality": "text", "identity": 2, "camera": -1, "path": "", "text": "A man called 2."}


def test_without_folders_identities_are_held_out_the_same_in_every_run(tmp_path: Path):
    first = Orbench(write(tmp_path / "a", {"": range(20)}))
    sizes = {split: len(identities(first, split)) for split in SPLITS}
    assert sizes == {"train": 14, "calibration": 1, "validation": 1, "test": 4}
    second = Orbench(write(tmp_path / "b", {"": range(20)}))
    assert all(identities(first, split) == identities(second, split) for split in SPLITS)
    together = [identity for split in SPLITS for identity in identities(first, split)]
    assert sorted(together) == list(range(20))


def test_a_challenge_folder_without_identities_is_left_out_and_counted(tmp_path: Path):
    store = write(tmp_path, {"train": range(20)})
    for name in ("gallery", "nir"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 8)).save(tmp_path / "val" / name / "1.jpg")
    data = Orbench(store)
    assert data.skipped()["folders_without_identities"] == 1
    assert sum(data.samples(split).num_rows for split in SPLITS) == 20 * 6


def test_items_may_name_the_split_of_an_identity(tmp_path: Path):
    store = write(tmp_path, {"": range(1, 8)})
    named = {1: "train", 2: "train", 3: "val", 4: "val", 5: "test", 6: "test", 7: "train"}

    def name(content: list[dict[str, Any]]) -> None:
        for item in content:
            item["split"] = named[int(item["file_path"].split("/")[1])]

    edit(tmp_path, name, "")
    data = Orbench(store)
    assert identities(data, "train") == {1, 2, 7}
    assert identities(data, "test") == {5, 6}
    edit(tmp_path, lambda content: content.append({**content[0], "split": "test", "caption": "x"}), "")
    with pytest.raises(DataError, match="identity 1 is in test and in train: splits share no one"):
        Orbench(store)


def test_the_mask_says_what_an_identity_has(tmp_path: Path):
    store = write(tmp_path, OFFICIAL)
    shutil.rmtree(tmp_path / "train/nir/0003")
    edit(tmp_path, lambda content: content[2].update(caption=" "))
    data = Orbench(store)
    assert data.modalities(2).tolist() == [True] * len(MODALITIES)
    assert data.modalities(3).tolist() == [True, False, True, True, False]
    assert data.skipped()["empty_captions"] == 1
    with pytest.raises(InputError, match="identity must be one of the data's 12, got 77"):
        data.modalities(77)
    with pytest.raises(InputError, match="split must be one of train, calibration"):
        data.samples("val")


def test_a_caption_given_twice_for_a_picture_is_left_out_and_counted(tmp_path: Path):
    store = write(tmp_path, OFFICIAL)
    edit(tmp_path, lambda content: content.extend([dict(content[0]), {**content[0], "caption": "Another man."}]))
    data = Orbench(store)
    assert data.skipped()["repeated_captions"] == 1
    texts = [r["text"] for r in data.samples("train").to_pylist() if r["modality"] == "text" and r["identity"] == 1]
    assert texts == ["A man called 1.", "Another man."]


def drop(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path)


def captions(change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    return lambda root: edit(root, change)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (drop("train/sk"), "^train/sk: modality folder is missing or empty: it must hold <id>/"),
        (lambda root: (root / "test/text_annos.json").unlink(), "test/text_annos.json: missing"),
        (lambda root: (root / "test/text_annos.json").write_text("[{"), "test/text_annos.json: not JSON"),
        (lambda root: (root / "test/text_annos.json").write_text("{}"), r"text_annos.json: must be a list .*got \{\}"),
        (
            lambda root: shutil.copytree(root / "train/vis/0004", root / "test/vis/0004"),
            "^test: identity 4 is in train/ and in test/: splits share no one",
        ),
        (
            lambda root: (root / "train/cp/0001").rename(root / "train/cp/anna"),
            "train/cp/anna/0001_src_c03_0.jpg: must lie in a folder that is an identity's number",
        ),
        (captions(lambda c: c[1].update(file_path="../x.jpg")), r"item 1: path must stay inside .*'../x.jpg'"),
        (captions(lambda c: c[1].update(file_path="nir/0001/a.jpg")), "item 1: file_path must be vis/<id>/<name>"),
        (captions(lambda c: c[1].update(file_path="vis/0001/no.jpg")), "item 1: names 'vis/0001/no.jpg', which is not"),
        (captions(lambda c: c[1].update(caption=["a"])), "item 1: must have file_path and caption, both text"),
        (captions(lambda c: c.insert(1, "a")), "item 1: must have file_path and caption, both text, got 'a'"),
    ],
)
def test_data_with_a_fault_is_refused_with_file_and_rule(fault: Any, message: str, tmp_path: Path):
    store = write(tmp_path, OFFICIAL)
    assert check(store).problems == []
    fault(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        Orbench(store)
    assert check(store).problems == list(caught.value.problems)


def test_too_few_identities_for_the_splits_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"nothing is left for validation: .* five in all"):
        Orbench(write(tmp_path, {"": range(3)}))
    with pytest.raises(DataError, match=r"no ORBench data here: folders vis, nir, sk, cp and text_annos\.json"):
        Orbench(Store(str(tmp_path / "nowhere")))


def test_check_counts_and_names_pictures_that_will_not_decode(tmp_path: Path):
    store = write(tmp_path, OFFICIAL)
    counts = check(store).counts
    assert [counts[name] for name in ("identities", *MODALITIES)] == [12, 24, 12, 12, 12, 12]
    (tmp_path / "test/sk/0011/0011_src_c03_0.jpg").write_bytes(b"scrap")
    (problem,) = check(store).problems
    assert str(problem).startswith("test/sk/0011/0011_src_c03_0.jpg: image won't decode")
    assert check(store, decode=False).problems == []


def test_masks_are_in_the_order_of_the_modalities(tmp_path: Path):
    mask = Orbench(write(tmp_path, OFFICIAL)).modalities(1)
    assert mask.dtype == np.bool_
    assert mask.shape == (len(MODALITIES),)
