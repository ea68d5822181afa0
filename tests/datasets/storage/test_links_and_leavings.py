"""Links inside a folder, what operating systems leave there, and the encodings of text."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pytest
from refsweep.datasets.fingerprint import fingerprint
from refsweep.datasets.problems import DataError, InputError
from refsweep.datasets.storage.leavings import data_names, data_walk, is_leaving
from refsweep.datasets.storage.store import Store, read_file
from refsweep.datasets.storage.text import decoded


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the data with a secret in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "one.txt").write_text("1")
    return tmp_path / "data"


def test_a_link_out_of_the_folder_is_refused_for_reading_and_writing(data: Path, outside: Path):
    (data / "file.txt").symlink_to(outside / "secret.txt")
    (data / "folder").symlink_to(outside)
    (data / "up").symlink_to("../outside")
    store = Store(str(data))
    refused = [
        lambda: store.read("file.txt"),
        lambda: store.read("folder/secret.txt"),
        lambda: store.read("up/secret.txt"),
        lambda: store.read_range("file.txt", 0, 2),
        lambda: store.write("folder/new.txt", b"x"),
        lambda: store.write("up/deep/new.txt", b"x"),
        lambda: store.write("file.txt", b"x"),
        lambda: store.exists("folder/secret.txt"),
        lambda: store.names("folder"),
        lambda: list(store.walk("folder")),
        lambda: list(store.walk()),
        lambda: store.child("folder"),
        lambda: store.local_path("folder/secret.txt"),
        lambda: store.delete("folder/secret.txt"),
        lambda: fingerprint(store),
    ]
    for access in refused:
        with pytest.raises(InputError, match=r"must stay inside .*, got a link that leads to .*outside"):
            access()
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"secret.txt": "secret"}
    store.delete("folder")  # the link itself
    assert not (data / "folder").exists()
    assert (outside / "secret.txt").exists()


def test_a_folder_that_begins_with_the_same_letters_is_outside(data: Path, tmp_path: Path):
    (tmp_path / "data-of-others").mkdir()
    (tmp_path / "data-of-others" / "x").write_text("x")
    (data / "x").symlink_to(tmp_path / "data-of-others" / "x")
    with pytest.raises(InputError, match=r"must stay inside"):
        Store(str(data)).read("x")


def test_links_within_the_folder_and_to_the_folder_are_followed(data: Path, tmp_path: Path):
    (data / "b").symlink_to("a")
    (data / "two.txt").symlink_to(data / "a" / "one.txt")
    (data / "a" / "round").symlink_to(data)  # a circle
    (data / "gone.txt").symlink_to("nothing")
    (data / "self.txt").symlink_to("self.txt")
    (tmp_path / "link").symlink_to(data)
    for store in (Store(str(data)), Store(str(tmp_path / "link")), Store(f"{data}/../data")):
        assert store.read("b/one.txt") == b"1"
        assert list(store.walk()) == [("a/one.txt", 1), ("b/one.txt", 1), ("two.txt", 1)]
        store.write("b/new.txt", b"new")
        assert (data / "a" / "new.txt").read_text() == "new"
        store.delete("a/new.txt")
        with pytest.raises(FileNotFoundError):
            store.read("gone.txt")


def test_a_file_that_the_user_names_may_be_a_link(data: Path, outside: Path):
    (data / "file.txt").symlink_to(outside / "secret.txt")
    assert read_file(str(data / "file.txt")) == b"secret"
    with pytest.raises(FileNotFoundError):
        read_file(str(data / "nothing"))


def test_a_name_that_can_not_be_written_down_is_one_sentence(data: Path):
    try:
        (data / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for access in (lambda: Store(str(data)).names(), lambda: list(Store(str(data)).walk())):
        with pytest.raises(InputError, match=r"names of files must be UTF-8, got b'caf\\xe9.jpg' in "):
            access()


LEAVINGS = [".DS_Store", "._one.jpg", "Thumbs.db", "thumbs.db", "desktop.ini", "Desktop.ini", "Icon\r", ".directory"]
LEAVINGS += ["ehthumbs.db", ".hidden/x.jpg", "__MACOSX/one.jpg", "__MACOSX/a/._one.jpg", "$RECYCLE.BIN/x.jpg"]
LEAVINGS += [
    ".Trash-1000/x.jpg",
    "System Volume Information/x",
    "lost+found/x",
    "@eaDir/one.jpg/x.jpg",
    ".Spotlight-V100/x",
]


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_leavings_are_listed_nowhere_and_change_no_fingerprint(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
):
    uri = str(tmp_path) if place == "folder" else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    store = Store(uri)
    for path in ("a/one.jpg", "a/two.jpg", "thumbs/db.jpg"):
        store.write(path, b"picture")
    before = fingerprint(store)
    for path in LEAVINGS:
        store.write(path, b"scrap")
        store.write(f"a/{path}", b"scrap")
    assert data_names(store) == ["a", "thumbs"]
    assert data_names(store, "a") == ["one.jpg", "two.jpg"]
    assert list(data_walk(store)) == [("a/one.jpg", 7), ("a/two.jpg", 7), ("thumbs/db.jpg", 7)]
    assert fingerprint(store) == before
    assert all(is_leaving(path.partition("/")[0]) for path in LEAVINGS)
    assert not any(map(is_leaving, ("one.jpg", "thumbs.db.jpg", "desktop.ini.json", "a._x", "Icon")))


def test_a_link_out_among_leavings_harms_nobody(data: Path, outside: Path):
    (data / ".cache").symlink_to(outside)
    assert list(data_walk(Store(str(data)))) == [("a/one.txt", 1)]


def test_utf_8_is_read_with_its_mark_and_other_encodings_are_named():
    assert decoded(b"\xef\xbb\xbfa\xc3\xa9", "f") == decoded(b"a\xc3\xa9", "f") == "aé"
    for encoding, named in (("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-le", "zero bytes, as UTF-16")):
        with pytest.raises(DataError, match=f"^f: must be UTF-8 text, got {named}.*: save it as UTF-8$"):
            decoded("frame".encode(encoding), "f")
    with pytest.raises(DataError, match=r"^f:2: must be UTF-8 text, got the byte 0xe9: save it as UTF-8$"):
        decoded(b"caf\ncaf\xe9", "f")


def test_deleting_a_store_that_is_a_link_leaves_what_it_points_to(data: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(data)
    Store(str(tmp_path)).delete("link")
    assert (data / "a" / "one.txt").exists()
    shutil.rmtree(data)
