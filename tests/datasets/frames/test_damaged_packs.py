"""A pack with a byte changed anywhere gives the frames that were packed, or says where it is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from refsweep.datasets.frames import packed as packed_frames
from refsweep.datasets.frames.packed import INDEX_FILE, INFO_FILE, PackedFrames, shard_path
from refsweep.datasets.problems import DataError
from refsweep.datasets.storage.store import Store
from refsweep.tests.help import frame_paths


@pytest.mark.parametrize("path", [shard_path(0), INDEX_FILE])
def test_a_changed_byte_gives_no_other_bytes(path: str, made: Path, packed: Path, tmp_path: Path):
    out = Path(shutil.copytree(packed, tmp_path / "out"))
    sound, rng = (out / path).read_bytes(), np.random.default_rng(0)
    paths = frame_paths(made)[:40]
    whole = {name: (made / name).read_bytes() for name in paths}
    noticed = 0
    for at in rng.integers(4, len(sound), 60):
        (out / path).write_bytes(sound[:at] + bytes([sound[at] ^ (1 << int(rng.integers(8)))]) + sound[at + 1 :])
        try:
            frames = PackedFrames(Store(str(out)))
            list(frames.walk(""))
            for name in paths:
                assert frames.read(name) == (whole[name], (208, 63))
        except (DataError, FileNotFoundError):  # the latter where the index names it otherwise
            noticed += 1
    assert noticed > 10


def test_a_row_group_is_verified_once_a_process(packed: Path, made: Path, monkeypatch: pytest.MonkeyPatch):
    verified, plain = [], packed_frames._verify
    monkeypatch.setattr(packed_frames, "_verify", lambda frames: (verified.append(1), plain(frames))[1])
    frames, paths = PackedFrames(Store(str(packed)), groups_mib=0), frame_paths(made)
    for path in [*paths, *reversed(paths)]:  # one group is kept at most: each is read again
        frames.read(path)
    groups = {(p.shard, p.group) for p in map(frames.place, paths)}
    assert len(verified) == len(groups) > 5


def test_a_frame_with_another_sha256_is_named(packed: Path, made: Path, tmp_path: Path):
    """The bytes of a picture changed in a file that is whole: only the sha256 tells."""
    out, name = Path(shutil.copytree(packed, tmp_path / "out")), frame_paths(made)[0]
    content = (made / name).read_bytes()
    shard = (out / shard_path(0)).read_bytes()
    at = shard.index(content) + len(content) // 2
    (out / shard_path(0)).write_bytes(shard[:at] + bytes([shard[at] ^ 1]) + shard[at + 1 :])
    assert pq.ParquetFile(out / shard_path(0)).read().num_rows > 0
    with pytest.raises(DataError, match=f"00000.parquet: not what was packed: {name} has another sha256 than it had"):
        PackedFrames(Store(str(out))).read(name)


def test_a_pack_of_before_whose_footers_are_not_recorded_is_read(packed: Path, made: Path, tmp_path: Path):
    out = Path(shutil.copytree(packed, tmp_path / "out"))
    info = json.loads((out / INFO_FILE).read_text())
    del info["footers"]
    (out / INFO_FILE).write_text(json.dumps(info))
    frames = PackedFrames(Store(str(out)))
    for path in frame_paths(made)[::20]:
        assert frames.read(path)[0] == (made / path).read_bytes()
