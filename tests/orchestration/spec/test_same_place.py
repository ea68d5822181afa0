"""Places as they are shown, and when two of them are one."""

from __future__ import annotations

from pathlib import Path

import pytest
from refsweep.orchestration.spec.same_place import same_place, shown


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("postgresql://me:secret@db:5432/sweeps?sslpassword=secret", "postgresql://me@db:5432/sweeps"),
        ("postgresql://me:se%40cret@db/sweeps", "postgresql://me@db/sweeps"),
        ("http://u:secret@mlflow:5000/x", "http://u@mlflow:5000/x"),
        ("sqlite:////data/a?b.db", "sqlite:////data/a?b.db"),
        ("/data/out", "/data/out"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_no_password_is_shown(place: str, text: str):
    assert shown(place) == text
    assert "secret" not in shown(place)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sqlite:////a/l.db", "sqlite:////a/b/../l.db", True),
        ("sqlite:////a/l.db", "sqlite:////a/m.db", False),
        ("sqlite:////a/l.db", "postgresql://h/a/l.db", False),
        ("postgresql://h/sweeps", "postgresql+psycopg://me@H:5432/sweeps", True),
        ("postgresql://h:5433/sweeps", "postgresql://h/sweeps", False),
        ("postgresql://h/sweeps", "http://h:5432/sweeps", False),
        ("postgresql://db/sweeps", "postgresql://me@DB:5432/sweeps", True),
        ("postgresql:///sweeps?host=/run/pg", "postgresql:///sweeps?host=/run/other", False),
        ("postgresql://db/sweeps", "postgresql://db/other", False),
        ("s3://b/p", "s3://b/p/", True),
        ("s3://b/p", "s3://b/q", False),
        ("http://mlflow:5000", "http://mlflow:5000/", True),
        ("http://mlflow:5000", "none", False),
    ],
)
def test_places_are_compared_by_what_they_name(one: str, other: str, same: bool):
    assert same_place(one, other) == same_place(other, one) == same


def test_links_to_a_folder_are_the_folder(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert same_place(str(tmp_path / "a"), str(tmp_path / "link"))
    assert same_place(f"sqlite:///{tmp_path}/a/ledger.db", f"sqlite:///{tmp_path}/link/ledger.db")
    assert not same_place(str(tmp_path / "a"), str(tmp_path / "b"))
