"""MLflow's tables in a new SQLite file are a copy of those that MLflow made once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import mlflow
import pytest
from refsweep.orchestration.tracking.client import make_client
from refsweep.orchestration.tracking.tables import copy_tables


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "refsweep"


def content(path: Path) -> tuple[list[list[str]], list[tuple[str, int]]]:
    """Its schema, and the rows of each table. A table's constraints are sorted: MLflow's migrations write them in the
    order of a set, another one each time."""
    with sqlite3.connect(path) as database:
        written = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        schema = sorted(sorted(line.strip(" ,\t") for line in sql.splitlines()) for (sql,) in written)
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return schema, sorted((n, *database.execute(f"SELECT count(*) FROM {n}").fetchone()) for n in names)  # noqa: S608


def uri(path: Path) -> str:
    return f"sqlite:///{path}"


def test_a_copy_is_what_mlflow_makes_itself(cache: Path, tmp_path: Path):
    client = mlflow.MlflowClient(tracking_uri=uri(tmp_path / "own.db"), registry_uri=uri(tmp_path / "own.db"))
    client.search_experiments()
    for name in ("first", "second"):  # made for the cache, then taken from it
        copied = make_client(uri(tmp_path / name / "mlflow.db"))
        assert content(tmp_path / name / "mlflow.db") == content(tmp_path / "own.db")
        experiments = [(e.name, e.artifact_location) for e in copied.search_experiments()]
        assert experiments == [(e.name, e.artifact_location) for e in client.search_experiments()]
        assert not list((tmp_path / name).glob(".mlflow-*"))
    run = copied.create_run(copied.create_experiment("toy"))
    copied.log_metric(run.info.run_id, "loss", 1.0)
    assert copied.get_run(run.info.run_id).data.metrics == {"loss": 1.0}
    assert [path.name for path in cache.iterdir()] == [f"mlflow-{mlflow.__version__}.db"]


def test_tables_are_made_once_a_version(cache: Path, tmp_path: Path):
    made: list[str] = []

    def make(uri: str) -> None:
        made.append(uri)
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
            database.execute("CREATE TABLE experiments (name)")

    for version, count in (("1", 1), ("1", 1), ("2", 2)):
        path = tmp_path / f"{version}-{len(made)}" / "mlflow.db"
        copy_tables(path, version, make)
        assert len(made) == count
        assert path.exists()
    assert sorted(p.name for p in cache.iterdir()) == ["mlflow-1.db", "mlflow-2.db"]


def test_a_file_that_is_there_is_left_alone(cache: Path, tmp_path: Path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"mine")
    copy_tables(path, "1", lambda _: pytest.fail("nothing is to be made"))
    assert path.read_bytes() == b"mine"
    assert not cache.exists()


def test_a_file_that_another_process_made_meanwhile_is_left_alone(cache: Path, tmp_path: Path):
    path = tmp_path / "mlflow.db"

    def make(uri: str) -> None:
        sqlite3.connect(uri.removeprefix("sqlite:///")).execute("CREATE TABLE experiments (name)").connection.close()
        path.write_bytes(b"theirs")

    copy_tables(path, "1", make)
    assert path.read_bytes() == b"theirs"


def test_a_cache_that_cannot_be_used_is_done_without(cache: Path, tmp_path: Path):
    cache.parent.write_text("a file where a folder should be")
    client = make_client(uri(tmp_path / "new" / "mlflow.db"))
    assert [e.name for e in client.search_experiments()] == ["Default"]
    copy_tables(tmp_path / "other.db", "1", lambda _: pytest.fail("nothing is to be made"))
    assert not (tmp_path / "other.db").exists()
