"""Packed pictures of people: training, checks, the served example and a query read them like single files."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refsweep.datasets import discovery
from refsweep.datasets.frames.cache import FrameCache
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.frames.packed import UNFINISHED_FILE, shard_path
from refsweep.datasets.layouts.cuhk_pedes import PersonText
from refsweep.datasets.layouts.orbench import SPLITS, Orbench
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.query import open_gallery
from refsweep.orchestration.train import train_once
from refsweep.tests.trainables.mm_reid import case as mm_people
from refsweep.tests.trainables.t2i_reid import case as people
from refsweep.trainables import discovery as trainables
from refsweep.trainables.training.package import Package

SMALL = Packing(shard_mb=0.02, group_mb=0.005)  # some shards of a few groups


@dataclass(frozen=True)
class Family:
    """A re-identification model, its data and a Config of seconds."""

    trainable: str
    write: Callable[[Path], Any]
    config: dict[str, Any]


FAMILIES = [
    Family("t2i_reid", people.write_people, {**people.SMALL, "epochs": 1}),
    Family("mm_reid", mm_people.write_people, {**mm_people.TINY, "epochs": 1}),
]


@dataclass(frozen=True)
class Pair:
    """The same people in single files and packed."""

    family: Family
    loose: Path
    packed: Path


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.trainable)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param.trainable)
    request.param.write(folder / "loose")
    pack(Store(str(folder / "loose")), Store(str(folder / "packed")), SMALL)
    assert len(list((folder / "packed" / "frames").iterdir())) > 3
    return Pair(request.param, folder / "loose", folder / "packed")


def test_checks_say_the_same(pair: Pair):
    loose, packed = (discovery.check(Store(str(place))) for place in (pair.loose, pair.packed))
    assert loose == packed
    assert packed[1].problems == []


def test_training_is_bit_equal(pair: Pair, tmp_path: Path):
    sets = [f"{name}={json.dumps(value)}" for name, value in pair.family.config.items()]
    loose, packed = (
        train_once(pair.family.trainable, str(place), str(tmp_path / place.name), sets, "cpu", lambda _: None)
        for place in (pair.loose, pair.packed)
    )
    assert loose["metrics"] == packed["metrics"]
    assert loose["setting"] == packed["setting"]


def test_the_served_example_and_the_gallery_are_the_same(pair: Pair):
    module = trainables.load(pair.family.trainable)
    config = module.Config(**pair.family.config)
    examples = [module.example(module.open_data(Store(str(place))), config) for place in (pair.loose, pair.packed)]
    assert examples[0] == examples[1]
    package = Package(trainable=pair.family.trainable, config={}, setting={}, facts={}, origin={}, weights={})
    galleries = [open_gallery(package, str(place), "test") for place in (pair.loose, pair.packed)]
    assert galleries[0].paths == galleries[1].paths
    assert galleries[0].identities == galleries[1].identities


def test_shrunk_pictures_keep_the_size_they_had(pair: Pair, tmp_path: Path):
    packed, loose = Store(str(tmp_path / "small")), Store(str(pair.loose))
    pack(loose, packed, Packing(frame_px=20))
    assert discovery.check(packed)[1] == discovery.check(loose)[1]
    path = discovery.layout("cuhk-pedes" if pair.family.trainable == "t2i_reid" else "orbench").frame_files(
        loose, [path for path, _ in loose.walk()]
    )[0]
    cache = FrameCache(8)
    kept, full = cache.picture(packed, path), cache.picture(loose, path)
    assert max(kept.frame.shape[:2]) == 20
    assert kept.size == full.size
    assert cache.get(packed, path).shape == full.frame.shape


def test_a_damaged_or_unfinished_pack_is_named(pair: Pair, tmp_path: Path):
    damaged = Path(shutil.copytree(pair.packed, tmp_path / "damaged"))
    (damaged / shard_path(0)).write_bytes(b"PAR1")
    problems = discovery.check(Store(str(damaged)))[1].problems
    assert problems
    assert all(problem.what.startswith("not what was packed") for problem in problems)
    (damaged / "packed.json").unlink()
    (damaged / UNFINISHED_FILE).write_text("{}")
    assert "packing was not finished" in str(discovery.check(Store(str(damaged)))[1].problems[0])
    with pytest.raises(DataError, match="packing was not finished"):
        trainables.load(pair.family.trainable).check_data(Store(str(damaged)))


def picture(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), (90, 10, 10)).save(root / path)


def test_only_pictures_that_annotations_name_are_packed(tmp_path: Path):
    root, out = tmp_path / "loose", Store(str(tmp_path / "packed"))
    people.write_people(root)
    for path in ("imgs/nobody.png", "imgs/train/Thumbs.db.png", "cover.png"):
        picture(root, path)
    missing = PersonText(Store(str(root))).paths[0]
    (root / missing).unlink()
    pack(Store(str(root)), out, Packing())
    others = {path for path, _ in out.walk() if not path.startswith("frames/")}
    assert others == {"caption_all.json", "cover.png", "imgs/nobody.png", "imgs/train/Thumbs.db.png", "packed.json"}
    assert [problem.where for problem in discovery.check(out)[1].problems] == [missing]
    with pytest.raises(DataError, match="frame is missing"):
        FrameCache(8).get(out, missing)


def test_a_challenge_folder_without_identities_stays_as_it_is(tmp_path: Path):
    root, out = tmp_path / "loose", Store(str(tmp_path / "packed"))
    mm_people.write_people(root)
    shutil.rmtree(root / "val")
    for path in ("val/gallery/1.jpg", "val/nir/1.jpg"):
        picture(root, path)
    pack(Store(str(root)), out, Packing())
    loose, packed = Orbench(Store(str(root))), Orbench(out)
    assert packed.skipped() == loose.skipped()
    assert packed.skipped()["folders_without_identities"] == 1
    assert all(packed.samples(split).equals(loose.samples(split)) for split in SPLITS)
    assert {"val/gallery/1.jpg", "val/nir/1.jpg"} < {path for path, _ in out.walk()}


def test_what_has_no_pictures_or_names_of_a_pack_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "loose"
    people.write_people(root)
    (root / "frames").mkdir()
    pack(Store(str(root)), Store(str(tmp_path / "packed")), Packing())  # an empty folder does no harm
    (root / "frames" / "00000.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match=r"it has files frames/\*\.parquet, which are a pack's own names"):
        pack(Store(str(root)), Store(str(tmp_path / "out")), Packing())
    shutil.rmtree(root / "frames")
    monkeypatch.setattr(discovery.layout("cuhk-pedes"), "frame_files", lambda store, files: [])
    with pytest.raises(InputError, match="can't be packed: this cuhk-pedes data holds no frames or pictures"):
        pack(Store(str(root)), Store(str(tmp_path / "out")), Packing())
    assert not (tmp_path / "out").exists()


def test_a_pack_of_people_on_object_storage_reads_like_the_folder(pair: Pair, tmp_path: Path, s3: str):
    remote = Store(f"{s3}/{tmp_path.name}")
    pack(Store(str(pair.loose)), remote, SMALL)
    assert discovery.check(remote) == discovery.check(Store(str(pair.loose)))
    cache = FrameCache(8)
    for path in discovery.layout(str(discovery.recognise(remote))).frame_files(
        Store(str(pair.loose)), [path for path, _ in Store(str(pair.loose)).walk()]
    )[::10]:
        content, size = cache.source(remote).read(path)
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == size
        assert content == (pair.loose / path).read_bytes()
