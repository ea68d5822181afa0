from __future__ import annotations

import errno
import pickle  # noqa: TID251  what Ray does to a store when it sends one to a worker
import uuid
from pathlib import Path

import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store, is_disk_full, safe_path


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(str(tmp_path))
    return Store(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")


def test_what_is_written_is_read(store: Store):
    store.write("a/b.txt", b"one")
    store.write("a/b.txt", b"two")
    assert store.read("a/b.txt") == b"two"
    assert store.exists("a/b.txt")
    assert not store.exists("a/c.txt")


def test_ranges_are_cut_off_at_the_end(store: Store):
    store.write("a", b"0123456789")
    parts = [store.read_range("a", *span) for span in ((0, 4), (3, 1), (8, 5), (10, 1), (90, 9))]
    assert parts == [b"0123", b"3", b"89", b"", b""]
    with pytest.raises(FileNotFoundError):
        store.read_range("b", 0, 1)


def test_a_name_that_begins_another_is_not_there_for_that(store: Store):
    for path in ("ab", "a-b/c", "b/c"):
        store.write(path, b"1")
    assert [store.exists(p) for p in ("a", "ab", "a-b", "a-", "b", "b/c", "")] == [0, 1, 1, 0, 1, 1, 1]
    store.delete("a")
    store.delete("a-")
    assert store.exists("ab")
    assert store.exists("a-b/c")


def test_names_and_walk_are_sorted_and_complete(store: Store):
    for path in ("b.txt", "a/z.txt", "a/deep/er.txt"):
        store.write(path, path.encode())
    assert store.names() == ["a", "b.txt"]
    assert store.names("a") == ["deep", "z.txt"]
    assert list(store.walk()) == [("a/deep/er.txt", 13), ("a/z.txt", 7), ("b.txt", 5)]
    assert list(store.walk("a")) == [("deep/er.txt", 13), ("z.txt", 7)]
    assert store.names("nowhere") == []


def test_delete_removes_a_file_or_a_folder_and_forgives_a_missing_one(store: Store):
    store.write("a/one", b"1")
    store.write("a/two", b"2")
    store.delete("a/one")
    assert store.names("a") == ["two"]
    store.delete("a")
    store.delete("a")
    assert not store.exists("a/two")


def test_reading_what_is_not_there_raises(store: Store):
    with pytest.raises(FileNotFoundError):
        store.read("nothing")


def test_a_child_is_the_folder_below(store: Store):
    store.child("x").write("y", b"1")
    assert store.read("x/y") == b"1"


def test_a_store_travels(store: Store):
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"  # noqa: S301


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\\b", "", "a\0b"])
def test_a_path_that_leaves_the_root_is_refused(path: str):
    with pytest.raises(InputError, match="must stay inside"):
        safe_path(path)


@pytest.mark.parametrize("uri", ["http://x/y", "gs://bucket/x", "s3://"])
def test_only_folders_and_buckets_are_locations(uri: str):
    with pytest.raises(InputError):
        Store(uri)


def test_a_failed_write_leaves_the_old_content_and_no_scrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(str(tmp_path))
    store.write("a", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        store.write("a", b"new")
    assert is_disk_full(caught.value)
    assert store.read("a") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_recognised_behind_other_errors():
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(error)
    assert not is_disk_full(RuntimeError("something else"))
