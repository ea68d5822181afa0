"""A packed data set is the data set: same files, labels and batches; frames cost what their row group costs."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.frames import pack as packing
from refsweep.datasets.frames.cache import FrameCache, square
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.frames.packed import INDEX_FILE, INFO_FILE, PackedFrames, shard_path
from refsweep.datasets.layouts.refer_kitti import FRAMES, SPLITS, ReferKitti
from refsweep.datasets.layouts.refer_kitti_check import check
from refsweep.datasets.problems import DataError
from refsweep.datasets.storage.store import Store
from refsweep.datasets.stream import cut, stream
from refsweep.orchestration.train import train_once
from refsweep.tests.help import frame_paths, tree
from refsweep.trainables.ikun.config import Config
from refsweep.trainables.ikun.data import Reader, TrainingSet, training_plan

SMALL = Packing(shard_mb=0.7, group_mb=0.1)  # many shards and groups of a few frames


class Counted(Store):
    """A folder that counts what is read of it."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.ranges: list[tuple[str, int]] = []

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self.ranges.append((path, length))
        return super().read_range(path, start, length)


def test_frames_and_all_other_files_are_what_they_were(made: Path, packed: Path):
    frames, before, after = PackedFrames(Store(str(packed))), tree(made), tree(packed)
    assert len(frames.info.shards) > 3
    assert frames.info.frames == len(frame_paths(made)) == 144
    for path, content in before.items():
        if path.startswith(FRAMES):
            with Image.open(made / path) as image:
                assert frames.read(path) == (content, image.size)
        else:
            assert after[path] == content
    ours = {path for path in after if path not in before}
    assert ours == {INFO_FILE, INDEX_FILE, *(shard_path(i) for i in range(len(frames.info.shards)))}


def test_names_are_those_of_the_folders(made: Path, packed: Path):
    frames, loose = PackedFrames(Store(str(packed))), Store(str(made))
    for video in loose.names(FRAMES):
        assert frames.names(f"{FRAMES}/{video}") == loose.names(f"{FRAMES}/{video}")
        assert list(frames.walk(f"{FRAMES}/{video}")) == loose.names(f"{FRAMES}/{video}")
    assert frames.names(FRAMES) == loose.names(FRAMES)
    assert frames.names("") == ["KITTI"]
    assert list(frames.walk("")) == frame_paths(made)
    assert frames.names("nowhere") == frames.names(f"{FRAMES}/000") == list(frames.walk("nowhere")) == []
    for path in ("a", "z", f"{FRAMES}/0001/000000.pn", f"{FRAMES}/0001/999999.png"):
        with pytest.raises(FileNotFoundError, match="was not packed"):
            frames.read(path)


def test_an_index_of_many_row_groups_finds_every_frame(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Packing
):
    monkeypatch.setattr(packing, "_INDEX_ROWS", 7)
    pack(Store(str(made)), Store(str(tmp_path / "out")), small)
    frames = PackedFrames(Store(str(tmp_path / "out")))
    assert len(frames._starts) == -(-144 // 7)
    for path in frame_paths(made):
        assert frames.read(path)[0] == (made / path).read_bytes()
    videos = Store(str(made)).names(FRAMES)
    assert frames.names(FRAMES) == videos
    for video in videos:
        assert len(frames.names(f"{FRAMES}/{video}")) == 24


def batches(data: ReferKitti) -> Iterator[dict[str, Any]]:
    """What training reads in an epoch."""
    tracks = TrainingSet(data, data.videos("train"), 8).tracks
    plan = training_plan(tracks, Config(), np.random.default_rng(0))
    for start in range(0, plan.num_rows, 4):
        yield Reader(48, 64, data.frames)(plan.slice(start, 4), data.store)


def test_batches_are_bit_equal(made: Path, packed: Path):
    want, got = list(batches(ReferKitti(Store(str(made))))), list(batches(ReferKitti(Store(str(packed)))))
    assert len(want) == len(got) > 5
    for a, b in zip(want, got, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_training_is_bit_equal(made: Path, packed: Path, tmp_path: Path):
    small = ["tower=conv-tiny", "weights=null", "crop_px=16", "frame_px=32", "feature_dim=16", "epochs=1"]
    a, b = (
        train_once("ikun", str(data), str(tmp_path / name), small, "cpu", lambda _: None)
        for name, data in (("a", made), ("b", packed))
    )
    assert a["metrics"] == b["metrics"]
    assert a["setting"] == b["setting"]


@pytest.mark.parametrize("frame_px", [None, 104])
def test_a_pack_is_sound_and_says_the_same(frame_px: int | None, made: Path, tmp_path: Path):
    out = Store(str(tmp_path / "out"))
    pack(Store(str(made)), out, Packing(frame_px=frame_px))
    before, after = check(Store(str(made))), check(out)
    assert after.problems == []
    assert after.counts == before.counts
    old, new = ReferKitti(Store(str(made))), ReferKitti(out)
    assert new.splits == old.splits
    for video in (v for split in SPLITS for v in old.videos(split)):
        assert new.size(video) == old.size(video)
        assert new.n_frames(video) == old.n_frames(video)
        for x, y in zip(old.objects(video), new.objects(video), strict=True):
            np.testing.assert_array_equal(x.xyxy_F4, y.xyxy_F4)


def ramp(path: Path, splits: bool = True) -> Path:
    """A data set of one frame, 100 x 40, red 2.5 levels a pixel to the right, green 6 a pixel down."""
    x, y = np.meshgrid(np.arange(100), np.arange(40))
    image = np.stack([2.5 * x, 6.0 * y, np.full_like(x, 90)], -1).round().astype(np.uint8)
    (path / FRAMES / "0001").mkdir(parents=True)
    Image.fromarray(image).save(path / FRAMES / "0001" / "000000.png")
    if splits:
        (path / "splits.json").write_text(json.dumps({s: ["0001"] if s == "train" else [] for s in SPLITS}))
    return path


@pytest.mark.parametrize("frame_px", [80, 50, 33])
def test_a_shrunk_frame_keeps_its_geometry(frame_px: int, tmp_path: Path):
    """A ramp survives resampling, so levels tell places: 1.5 levels are 0.6 of a pixel across and 0.25 down."""
    source, out = Store(str(ramp(tmp_path / "ramp"))), Store(str(tmp_path / "out"))
    pack(source, out, Packing(frame_px=frame_px))
    path, cache = f"{FRAMES}/0001/000000.png", FrameCache(8)
    full, kept = cache.picture(source, path), cache.picture(out, path)
    assert kept.frame.shape == (round(40 * frame_px / 100), frame_px, 3)
    assert kept.size == full.size == (100, 40)
    for box in ([10, 8, 60, 30], [33.7, 10.2, 47.9, 20.9], [20, 9, 23, 31]):
        for window in ((0, 0, 1, 1), (0.2, 0.3, 0.5, 0.6)):
            want = square(full.frame, box, 32, window).astype(int)
            got = square(kept.frame, box, 32, window, kept.size).astype(int)
            inside = want[..., 2] == 90  # where there is no padding: that lies in the same places
            np.testing.assert_array_equal(got[..., 2] > 0, want[..., 2] > 0)
            assert np.abs(got - want)[inside].max() <= 1.5
    restored = cache.get(out, path).astype(int)
    assert np.abs(restored - full.frame)[4:-4, 4:-4].max() <= 1.5


def test_crops_of_shrunk_frames_differ_by_detail_only(made: Path, tmp_path: Path):
    """At half the size, on average: nearer to the crop they stand for than it is to itself one small pixel aside.

    The made scenes are full of texture, which is what shrinking takes; labels and all else are equal.
    """
    out = Store(str(tmp_path / "out"))
    pack(Store(str(made)), out, Packing(frame_px=104))
    want, got = list(batches(ReferKitti(Store(str(made))))), list(batches(ReferKitti(out)))
    for a, b in zip(want, got, strict=True):
        for name in a.keys() - {"crop", "frame"}:
            np.testing.assert_array_equal(a[name], b[name])
    data, small = ReferKitti(Store(str(made))), ReferKitti(out)
    away, aside = [], []
    for thing in data.objects("0001"):
        for frame, box in zip(thing.frame_F.tolist(), thing.xyxy_F4, strict=True):
            path = data.frame_path("0001", frame)
            full, kept = data.frames.picture(data.store, path), small.frames.picture(out, path)
            crop = square(full.frame, box, 64).astype(int)
            away.append(np.abs(crop - square(kept.frame, box, 64, size=kept.size)).mean())
            moved = [
                np.abs(crop - square(full.frame, box + np.array(by), 64)).mean() for by in ([2, 0] * 2, [0, 2] * 2)
            ]
            aside.append(min(moved))
    assert len(away) > 100
    assert np.mean(away) < 0.8 * np.mean(aside)
    assert np.mean(away) < 10  # grey levels of 255


def test_a_served_example_has_frames_in_the_pixels_of_its_boxes(made: Path, tmp_path: Path):
    out = Store(str(tmp_path / "out"))
    pack(Store(str(made)), out, Packing(frame_px=104))
    small, large = ReferKitti(out), ReferKitti(Store(str(made)))
    with Image.open(io.BytesIO(small.frame_file("0001", 3))) as image:
        assert image.size == large.size("0001")
    assert large.frame_file("0001", 3) == (made / large.frame_path("0001", 3)).read_bytes()


def test_one_frame_costs_one_request_for_its_row_group(made: Path, packed: Path):
    store = Counted(str(packed))
    frames = PackedFrames(store, groups_mib=64)
    paths = frame_paths(made)
    place, other = frames.place(paths[0]), frames.place(paths[-1])
    frames.read(paths[0])  # and the shard's footer
    store.ranges.clear()
    mates = [p for p in paths if (frames.place(p).shard, frames.place(p).group) == (place.shard, place.group)]
    elsewhere = next(p for p in paths if frames.place(p)[1] == place.shard and frames.place(p).group != place.group)
    for path in mates:
        frames.read(path)
    assert store.ranges == []
    content = frames.read(elsewhere)[0]
    assert [path for path, _ in store.ranges] == [shard_path(place.shard)]
    assert len(content) <= store.ranges[0][1] <= 0.1e6 * 1.1 + len(content)
    assert other.shard != place.shard


def test_threads_read_what_was_packed_and_no_group_twice(made: Path, packed: Path):
    store = Counted(str(packed))
    frames, paths = PackedFrames(store, groups_mib=64), frame_paths(made) * 3
    random.Random(0).shuffle(paths)
    with ThreadPoolExecutor(8) as pool:
        for path, (content, _) in zip(paths, pool.map(frames.read, paths), strict=True):
            assert content == (made / path).read_bytes()
    groups = {(p.shard, p.group) for p in map(frames.place, paths)}
    shards = {shard for shard, _ in groups}
    whole_index = [path for path, _ in store.ranges if path == INDEX_FILE]
    assert len(store.ranges) - len(whole_index) <= len(groups) + 2 * len(shards)


@pytest.mark.parametrize("frame_px", [None, 104])
def test_from_and_to_object_storage(frame_px: int | None, made: Path, tmp_path: Path, s3: str):
    options = Packing(frame_px=frame_px, shard_mb=0.7, group_mb=0.1)
    local, remote, again = (
        Store(str(tmp_path / "a")),
        Store(f"{s3}/{tmp_path.name}/b"),
        Store(f"{s3}/{tmp_path.name}/c"),
    )
    pack(Store(str(made)), local, options)
    pack(Store(str(made)), remote, options)
    source = Store(f"{s3}/{tmp_path.name}/loose")
    for path, _ in Store(str(made)).walk():
        source.write(path, (made / path).read_bytes())
    pack(source, again, options)
    assert fingerprint(local) == fingerprint(remote) == fingerprint(again)
    assert check(source).problems == check(remote).problems == []
    assert check(source).counts == check(remote).counts
    for a, b in zip(batches(ReferKitti(local)), batches(ReferKitti(remote)), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("executor", ["threads", "ray"])
def test_a_stream_from_object_storage_gives_the_rows_of_the_folder(
    executor: Any, made: Path, packed: Path, tmp_path: Path, s3: str, ray_local: None
):
    """Ray's workers find the server and its keys in their environment, and open the pack themselves."""
    remote = Store(f"{s3}/{tmp_path.name}")
    for path, content in tree(packed).items():
        remote.write(path, content)
    data = ReferKitti(Store(str(made)))
    tracks = TrainingSet(data, data.videos("train"), 8).tracks
    parts = cut(training_plan(tracks, Config(), np.random.default_rng(0)), 4, 0, "train")[:6]
    got = list(stream(parts, Reader(32, 48, FrameCache(8)), remote, executor=executor, workers=2))
    assert [place for place, _ in got] == [part.place for part in parts]
    for part, (_, arrays) in zip(parts, got, strict=True):
        want = Reader(32, 48, data.frames)(part.rows, data.store)
        assert arrays.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(arrays[name], want[name])


def look_at_all(out: Path) -> None:
    data = ReferKitti(Store(str(out)))
    for name in data.frame_names("0001"):
        data.frames.picture(data.store, f"{FRAMES}/0001/{name}")


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (shard_path(0), None, "frames/00000.parquet: part of the packed data set is missing"),
        (shard_path(0), b"PAR1", "frames/00000.parquet: not what was packed"),
        (INDEX_FILE, None, "frames/index.parquet: part of the packed data set is missing"),
        (INDEX_FILE, b"scrap", "frames/index.parquet: not what was packed"),
        (INFO_FILE, b"scrap", "packed.json: must be written by `data pack`, format 1"),
        (INFO_FILE, b'{"format": 2}', "packed.json: must be written by `data pack`, format 1"),
        (INFO_FILE, b'{"format": 1}', "packed.json: must be written by `data pack`, format 1"),
    ],
)
def test_a_damaged_pack_is_named(path: str, content: bytes | None, message: str, packed: Path, tmp_path: Path):
    out = Path(shutil.copytree(packed, tmp_path / "out"))
    (out / path).unlink()
    if content is not None:
        (out / path).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        look_at_all(out)
    assert any(message in f"{p.where}: {p.what}" for p in check(Store(str(out))).problems)
