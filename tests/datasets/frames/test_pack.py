"""Packing: streamed, deterministic, gone on with after a crash at any write; what it refuses."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.frames import pack as packing
from refsweep.datasets.frames.pack import Packing, pack
from refsweep.datasets.frames.packed import INFO_FILE, UNFINISHED_FILE, shard_path
from refsweep.datasets.layouts.refer_kitti import ReferKitti
from refsweep.datasets.layouts.refer_kitti_check import check
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.store import Store
from refsweep.tests.help import frame_paths, tree

SMALL = Packing(shard_mb=0.7, group_mb=0.1)  # many shards and groups of a few frames


def test_packing_reads_little_ahead(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Packing):
    """Prepared frames that are not in a shard yet are never more than a group, a shard and what threads hold."""
    started, plain = [], packing.prepare
    monkeypatch.setattr(packing, "prepare", lambda *a: (started.append(1), plain(*a))[1])
    ahead: list[int] = []
    out, written = Store(str(tmp_path / "out")), Store.write

    def write(store: Store, path: str, content: bytes) -> None:
        if path.startswith("frames/0"):
            stored.append(pq.ParquetFile(io.BytesIO(content)).metadata.num_rows)
            ahead.append(len(started) - sum(stored))
        written(store, path, content)

    stored: list[int] = []
    monkeypatch.setattr(Store, "write", write)
    pack(Store(str(made)), out, small, threads=2)
    in_a_group = 0.1e6 / min((made / p).stat().st_size for p in frame_paths(made)) + 1
    assert len(ahead) > 3
    assert max(ahead) <= 4 + in_a_group + 1


class Crash(BaseException):
    """The end of a process, for all that code can do about it."""


def test_an_interrupted_pack_is_refused_and_goes_on_to_the_same_files(
    made: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Packing
):
    want, source, plain = tree(packed), Store(str(made)), Store.write
    moments = [*sorted(path for path in want if path.startswith("frames/")), INFO_FILE, "splits.json"]
    for moment in [(path, late) for path in moments for late in (False, True)]:
        out = tmp_path / f"{moments.index(moment[0])}-{moment[1]}"

        def write(store: Store, path: str, content: bytes, moment: tuple[str, bool] = moment) -> None:
            if path != moment[0] or moment[1]:
                plain(store, path, content)
            if path == moment[0]:
                raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", write)
            with pytest.raises(Crash):
                pack(source, Store(str(out)), small)
        if moment == (INFO_FILE, True):
            assert check(Store(str(out))).problems == []  # complete, but for the file that marks its beginning
            continue
        problems = check(Store(str(out))).problems
        assert problems, moment
        result = pack(source, Store(str(out)), small)
        assert tree(out) == want, moment
        if moment[0] == shard_path(2):
            assert 0 < result["went_on_after"] < 144
        shutil.rmtree(out)


def test_an_unfinished_pack_says_what_to_do(made: Path, tmp_path: Path):
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / UNFINISHED_FILE).write_text("{}")
    with pytest.raises(DataError, match="packing was not finished: the same `data pack` continues it"):
        ReferKitti(Store(str(tmp_path / "out"))).size("0001")
    assert "packing was not finished" in str(check(Store(str(tmp_path / "out"))).problems[0])


def test_packs_of_the_same_data_have_one_fingerprint_others_differ(
    made: Path, made_copy: Path, tmp_path: Path, small: Packing
):
    def packed_fingerprint(source: Path, name: str, options: Packing) -> str:
        pack(Store(str(source)), Store(str(tmp_path / name)), options)
        return fingerprint(Store(str(tmp_path / name)))

    first = packed_fingerprint(made, "a", small)
    assert packed_fingerprint(made, "b", small) == first
    assert packed_fingerprint(made, "c", Packing(frame_px=104)) != first
    frame = made_copy / frame_paths(made)[5]
    with Image.open(frame) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(frame)
    assert packed_fingerprint(made_copy, "d", small) != first


def test_a_frame_that_will_not_decode_is_named(made_copy: Path, tmp_path: Path, small: Packing):
    path = frame_paths(made_copy)[30]
    (made_copy / path).write_bytes((made_copy / path).read_bytes()[:900])
    with pytest.raises(DataError, match=f"{path}: frame won't decode"):
        pack(Store(str(made_copy)), Store(str(tmp_path / "out")), small)
    assert not (tmp_path / "out" / INFO_FILE).exists()


def test_places_and_options_that_can_not_be_are_refused(made: Path, packed: Path, tmp_path: Path, small: Packing):
    source, taken = Store(str(made)), tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("x")
    for out, message in [
        (taken, "OUT must be empty, got .*taken with mine.txt"),
        (packed, "OUT must be empty"),
        (made / "inside", "OUT must lie outside the data set"),
        (made, "OUT must lie outside the data set"),
    ]:
        with pytest.raises(InputError, match=message):
            pack(source, Store(str(out)), small)
    with pytest.raises(InputError, match="is packed already"):
        pack(Store(str(packed)), Store(str(tmp_path / "x")), small)
    with pytest.raises(InputError, match="no data set of a known layout here"):
        pack(Store(str(taken)), Store(str(tmp_path / "x")), small)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / UNFINISHED_FILE).write_text("{}")
    with pytest.raises(InputError, match="was begun from other data or with other options"):
        pack(source, Store(str(tmp_path / "begun")), small)
    assert not (tmp_path / "x").exists()
    for wrong in ({"frame_px": 0}, {"shard_mb": 0}, {"group_mb": 0}, {"group_mb": 4, "shard_mb": 2}):
        with pytest.raises(InputError, match="must"):
            Packing(**wrong)
