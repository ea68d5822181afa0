"""Two complete checkpoints are kept whatever becomes of others; damage of any kind falls back to the one before."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.trainables.training.checkpoints import MANIFEST, MODEL, STATE, Checkpoints, Name, TornError, packed
from refsweep.trainables.training.sealed import BrokenSealError, digest_of, seal, unseal
from torch import ones

Harm = Callable[[Path], None]
FIELDS = {"history": [{"epoch": 1, "metrics": {"loss": 0.25}}], "config": "abc", "final": False}


def write(checkpoints: Checkpoints, name: Name, keep: set[int] | None = None) -> None:
    checkpoints.write(name, packed({"weight": ones(2)}, {"epoch": name.epoch}), FIELDS, keep or set())


def cut(folder: Path) -> None:
    path = folder / MODEL
    path.write_bytes(path.read_bytes()[:20])


def flip(folder: Path) -> None:
    content = bytearray((folder / STATE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / STATE).write_bytes(content)


def unwritten(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def edit(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("0.25", "-999"))


def nest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"history": ' + "[" * 100_000 + "]" * 100_000 + "}")


def replace_by_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()


def as_file(folder: Path) -> None:
    for file in (MODEL, STATE, MANIFEST):
        (folder / file).unlink()
    folder.rmdir()
    folder.write_text("")


HARMS = [cut, flip, unwritten, edit, nest, replace_by_folder, as_file]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("same", [True, False], ids=["same process", "next process"])
def test_a_torn_folder_does_not_take_the_place_of_a_complete_one(harm: Harm, same: bool, tmp_path: Path):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    write(checkpoints, Name(1, 1))
    write(checkpoints, Name(1, 2))
    harm(tmp_path / str(Name(1, 2)))
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == Name(1, 1)
    again = checkpoints if same else Checkpoints(Store(str(tmp_path)))
    write(again, Name(2, 2))
    harm(tmp_path / str(Name(2, 2)))
    newest = Checkpoints(Store(str(tmp_path))).newest()
    assert newest is not None, "the last complete checkpoint is gone"
    assert newest.name == Name(1, 1)


def test_what_is_older_than_the_newest_complete_one_goes_torn_or_not(tmp_path: Path):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    for epoch in (1, 2, 3):
        write(checkpoints, Name(1, epoch), keep={1})
    unwritten(tmp_path / str(Name(1, 2)))
    write(checkpoints, Name(1, 4), keep={1})
    assert checkpoints.names() == [Name(1, 4), Name(1, 3), Name(1, 1)]


def test_a_write_reads_back_nothing_that_this_process_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    write(checkpoints, Name(1, 1))
    read: list[str] = []
    before = Store.read
    monkeypatch.setattr(Store, "read", lambda self, path: read.append(path) or before(self, path))
    write(checkpoints, Name(1, 2))
    write(checkpoints, Name(1, 3))
    assert read == []
    other = Checkpoints(Store(str(tmp_path)))
    assert other.newest() is not None
    assert len(read) == 3
    write(other, Name(2, 4))
    assert len(read) == 3, "verified at the start"


@pytest.mark.parametrize("file", [MODEL, STATE, MANIFEST])
def test_a_disk_that_can_not_read_a_file_costs_that_checkpoint_alone(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    for epoch in (1, 2):
        write(checkpoints, Name(1, epoch))
    before = Store.read

    def read(number: int) -> Any:
        def fail(self: Store, path: str) -> bytes:
            if path == f"{Name(1, 2)}/{file}":
                raise OSError(number, "as a disk says it")
            return before(self, path)

        return fail

    monkeypatch.setattr(Store, "read", read(errno.EIO))
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == Name(1, 1)
    monkeypatch.setattr(Store, "read", read(errno.ESTALE))  # of the whole storage: nothing is known of the checkpoint
    with pytest.raises(OSError, match="as a disk says it"):
        checkpoints.newest()


def test_closed_storage_is_not_taken_for_one_without_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    write(checkpoints, Name(1, 1))

    def refuse(*_: Any) -> bytes:
        raise InputError("access denied")

    monkeypatch.setattr(Store, "read", refuse)
    with pytest.raises(InputError, match="access denied"):
        checkpoints.newest()


def test_a_manifest_of_before_has_no_digest_and_is_read(tmp_path: Path):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    write(checkpoints, Name(1, 1))
    path = tmp_path / str(Name(1, 1)) / MANIFEST
    manifest = json.loads(path.read_text())
    digest = manifest.pop("digest")
    path.write_text(json.dumps(manifest, indent=1))
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.digest == digest
    other = Checkpoints(Store(str(tmp_path / "other")))
    other.copy_from(newest)
    copied = other.newest()
    assert copied is not None
    assert copied.manifest["digest"] == copied.digest == digest


@pytest.mark.parametrize("file", [MODEL, STATE])
def test_files_that_were_never_weights_or_state_are_torn(file: str, tmp_path: Path):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    files = {**packed({"weight": ones(2)}, {}), file: b"\xff" * 99}
    checkpoints.write(Name(1, 1), files, FIELDS, set())
    newest = checkpoints.newest()
    assert newest is not None
    with pytest.raises(TornError, match=f"{file} is not what was written"):
        newest.model() if file == MODEL else newest.state()


@pytest.mark.parametrize("before", [False, True], ids=["with digests", "as before"])
def test_any_damage_leaves_one_that_can_be_read(before: bool, tmp_path: Path):
    checkpoints = Checkpoints(Store(str(tmp_path)))
    for epoch in (1, 2):
        write(checkpoints, Name(1, epoch))
        path = tmp_path / str(Name(1, epoch)) / MANIFEST
        if before:
            manifest = json.loads(path.read_text())
            del manifest["digest"]
            path.write_text(json.dumps(manifest))
    rng, fell_back = np.random.default_rng(7), 0
    for number in range(150):
        path = tmp_path / str(Name(1, 2)) / (MODEL, STATE, MANIFEST)[number % 3]
        whole = path.read_bytes()
        content = bytearray(whole)
        at = int(rng.integers(len(content)))
        content[at : at + int(rng.integers(1, 40))] = rng.bytes(int(rng.integers(4)))
        path.write_bytes(content)
        newest = checkpoints.newest()
        assert newest is not None
        fell_back += newest.name == Name(1, 1)
        assert newest.model()["weight"].equal(ones(2))
        assert newest.state()["epoch"] == newest.name.epoch
        assert all(isinstance(entry, dict) for entry in newest.history)
        path.write_bytes(whole)
    assert fell_back > (100 if before else 145)


@pytest.mark.parametrize("content", [{}, {"b": [1, (2.5, None)], 1: "x", "digest": "old"}, {"nan": float("nan")}])
def test_a_sealed_object_reads_back_and_any_change_breaks_it(content: dict[Any, Any]):
    raw = seal(content)
    opened = unseal(raw)
    assert opened["digest"] == digest_of(opened)
    assert repr({k: v for k, v in opened.items() if k != "digest"}) == repr(
        json.loads(json.dumps({k: v for k, v in content.items() if k != "digest"}))
    )
    with pytest.raises(BrokenSealError, match="its digest is another"):
        unseal(raw[:-1] + b', "more": 1}')
