"""Places that a person names: what works is taken as it is, what can't work is refused before anything is written, and
no password is printed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from refsweep.datasets.problems import InputError
from refsweep.orchestration.ledger.ledger import Ledger
from refsweep.orchestration.spec.credentials import redacted
from refsweep.orchestration.spec.locations import check_tracking, check_url
from refsweep.orchestration.spec.read import make_spec, settle
from refsweep.orchestration.sweep import check_spec, find_sweep, open_sweep

LEAST: dict[str, Any] = {
    "name": "s",
    "trainable": "toy",
    "data": "none",
    "objective": {"metric": "loss", "mode": "min"},
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def problem_of(**fields: Any) -> str:
    """The one problem of a spec, and nothing written."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(InputError) as refused:
        open_sweep(check_spec({**LEAST, **fields}))
    lines = str(refused.value).splitlines()[1:]
    assert len(lines) == 1, lines
    assert sorted(Path().rglob("*")) == before
    return lines[0].strip()


LEDGERS_WITH_A_SECRET = [
    "postgresql://me:hunter2@db/s",
    "postgresql://me:hun/ter2@db/s",
    "postgresql://u%3Ahunter2@db/s",
    "postgresql://u%3ahunter2@db/s",
    "postgresql://db/s?password=hunter2",
    "postgresql://db/s?PASSWORD=hunter2",
    "postgresql://db/s?sslpassword=hunter2",
    "postgresql://db/s?sslmode=require&%70assword=hunter2",
    "postgresql://db/s#?password=hunter2",
    "me:hunter2@db/s",
    "my_name:hunter2@db/s",
    "//me:hunter2@db/s",
    "password=hunter2 host=db",
    "postgres://me:hunter2@db/s",
    "postgresql:/me:hunter2@db/s",
]


@pytest.mark.parametrize("url", LEDGERS_WITH_A_SECRET)
def test_a_ledger_with_a_password_is_refused_and_never_printed(url: str):
    with pytest.raises(InputError) as refused:
        check_url(url)
    assert "ter2" not in str(refused.value)
    assert "ter2" not in problem_of(ledger=url)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@mlflow:5000",
        "http://u%3Ahunter2@mlflow",
        "http://mlflow/?token=hunter2",
        "me:hunter2@mlflow",
        "//me:hunter2@mlflow",
        "postgresql://me:hunter2@db/mlflow",
        "mysql+pymysql://db/mlflow?Password=hunter2",
        "databricks://hunter2@x",
    ],
)
def test_a_tracking_with_a_password_is_refused_and_never_printed(uri: str, monkeypatch: pytest.MonkeyPatch):
    assert "hunter2" not in problem_of(tracking=uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI must") as refused:
        open_sweep(check_spec(LEAST))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("field", ["storage", "data", "ledger", "name"])
def test_a_value_of_the_wrong_type_is_shown_without_its_password(field: str):
    assert "hunter2" not in problem_of(**{field: ["https://me:hunter2@host/x"]})


@pytest.mark.parametrize("field", ["storage", "data"])
@pytest.mark.parametrize("place", ["https://me:hunter2@host/x", "s3://me:hunter2@bucket/x"])
def test_a_folder_with_a_password_is_refused_and_never_printed(field: str, place: str):
    beside = {"ledger": "sqlite:///l.db", "tracking": "none"}
    assert "hunter2" not in problem_of(**{**beside, field: place})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't reach postgresql://me:hunter2@db/s?x=1", "can't reach postgresql://me:***@db/s?x=1"),
        ("host=db password=hunter2 user=me", "host=db password=*** user=me"),
        ("sslpassword=hunter2&a=b", "sslpassword=***&a=b"),
        ("got 'me:hunter2@head:8265'", "got 'me:***@head:8265'"),
        ("at me:hunter2@db:5432/s", "at me:***@db:5432/s"),
        ("text_tokens=8 a:b@c /tmp/a:b@c/ledger.db x=1", "text_tokens=8 a:b@c /tmp/a:b@c/ledger.db x=1"),
        ("postgresql://me@db:5432/s http://host:8265/a@b", "postgresql://me@db:5432/s http://host:8265/a@b"),
    ],
)
def test_messages_show_no_password(text: str, shown: str):
    assert redacted(text) == shown


@pytest.mark.parametrize("uri", ["None", "./mlruns", "mlruns", "file:///x/mlruns", "htp://x", "gs://b/x", "s3://b/x"])
def test_what_mlflow_registers_no_models_in_is_refused(uri: str):
    assert problem_of(tracking=uri).startswith("tracking: must be none, http://HOST")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite://", "must be sqlite:///FILE"),
        ("sqlite:///", "must be sqlite:///FILE"),
        ("sqlite:///:memory:", "must be sqlite:///FILE"),
        ("sqlite:////", "must be sqlite:///FILE"),
        ("sqlite:///a?b/m.db", "must lie in a folder whose path holds no ?"),
        ("sqlite:///$HOME/m.db", r"must be written out: variables are not replaced, got $HOME"),
        ("sqlite:///.", "must be a file, got the folder"),
    ],
)
def test_a_sqlite_file_that_is_none_is_refused_for_ledger_and_tracking(uri: str, message: str):
    for field in ("tracking", "ledger"):
        assert problem_of(**{field: uri}).startswith(f"{field}: {message}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://", "must name a host"),
        ("http:///x", "must name a host"),
        ("http://h:99999", "must be a URL with a host and a port in 0..65535"),
        ("http://[::1", "must be a URL with a host"),
        ("mysql://h/d", "needs the Python module MySQLdb, which is not installed"),
    ],
)
def test_a_server_that_can_be_none_is_refused(uri: str, message: str):
    assert problem_of(tracking=uri).startswith(f"tracking: {message}")


@pytest.mark.parametrize(
    "uri", ["none", "http://m:5000", "https://m/mlflow", "sqlite:///m.db", "postgresql://m/mlflow"]
)
def test_what_mlflow_takes_is_taken(uri: str):
    assert check_tracking(uri) == uri
    assert check_spec({**LEAST, "tracking": uri}).tracking == uri


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("a?b", "must lie in a folder whose path holds no ?"),
        ("a%41", "must lie in a folder whose path holds no ?, no braces and no % before two digits, got '"),
        ("{a}", "must lie in a folder whose path holds no ?, no braces"),
        ("$HOME/out", "must be written out: variables are not replaced, got $HOME"),
        ("${HOME}/out", "must be written out"),
        ("", "must name a folder"),
        ("gs://b/x", "must be a folder or s3://bucket/prefix, got 'gs://b/x'"),
        ("s3://", "must be s3://bucket/prefix"),
        ("~nobody-of-that-name/x", "must be a folder: ~nobody-of-that-name is the home of no known user"),
        ("x" * 300, "can't be used: File name too long"),
        ("\udcff", "must be a name in UTF-8"),
    ],
)
def test_a_folder_that_can_not_work_is_refused_before_anything_is_written(storage: str, message: str):
    fields = {"ledger": "postgresql://db/s", "tracking": "none"} if storage.startswith(("s3:", "gs:")) else {}
    assert problem_of(storage=storage, **fields).startswith(f"storage: {message}")


def test_a_folder_below_or_in_place_of_a_file_is_refused():
    Path("f").write_text("")
    assert problem_of(storage="f/x").startswith("storage: can't be used: Not a directory")
    assert problem_of(storage="f").startswith("storage: must be a folder, got the file")


@pytest.mark.parametrize("name", ["a#b", "a b", "a'b", "é", "a@b", "a:b", "a&b;c", "[a]", "a%", "a\nb", "a\\b"])
def test_any_other_folder_name_works_and_everything_is_in_it(name: str, tmp_path: Path):
    spec = settle(check_spec({**LEAST, "storage": name}))
    Ledger.create(spec.ledger_url, "s", ["min"], spec.as_json()).close()
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name / "ledger.db").exists()
    assert find_sweep(spec.ledger_url, "s").spec == spec


def test_a_folder_whose_name_no_url_holds_works_with_a_ledger_and_an_mlflow_elsewhere():
    check_spec({**LEAST, "storage": "a?b", "ledger": "sqlite:///l.db", "tracking": "http://m"})


def test_a_home_is_written_out_in_urls_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    spec = settle(check_spec({**LEAST, "ledger": "sqlite:///~/l.db", "tracking": "sqlite:///~/m.db", "storage": "~/x"}))
    assert (spec.ledger, spec.tracking, spec.storage) == (
        "sqlite:////home/me/l.db",
        "sqlite:////home/me/m.db",
        "/home/me/x",
    )


@pytest.mark.parametrize("name", ["ledger.db", "mlflow.db", "ledger.db-wal", "mlflow.db-shm", "made", "mlartifacts"])
def test_names_of_what_lies_beside_sweeps_are_reserved(name: str):
    assert problem_of(name=name).startswith("name: must not be ledger.db")
    assert make_spec({**LEAST, "name": name}).name == name, "one that exists is read"


def begun(**fields: Any) -> str:
    """The ledger of a sweep that began under a spec, with a trial."""
    sweep = open_sweep(check_spec({**LEAST, **fields}))
    ledger = Ledger.create(sweep.spec.ledger_url, "s", ["min"], sweep.spec.as_json())
    ledger.take_lease()
    ledger.create_trial(optuna.create_trial(state=TrialState.RUNNING, user_attrs={"config": {}, "attempt": 1}))
    ledger.close()
    return sweep.spec.ledger_url


def tracking_of(**fields: Any) -> str | None:
    with open_sweep(check_spec({**LEAST, **fields})) as sweep:
        return sweep.spec.tracking_uri


def test_mlflow_is_where_the_record_says_else_the_spec_else_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    default = f"sqlite:///{tmp_path}/refsweep-out/mlflow.db"
    assert tracking_of() == default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_of() == "http://environment"
    assert tracking_of(tracking="http://spec") == "http://spec"
    url = begun()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://later")
    assert tracking_of() == "http://environment", "the first start recorded it"
    assert find_sweep(url, "s").spec.tracking_uri == "http://environment"
    with pytest.raises(InputError, match=r"(?s)http://environment.*http://other.*refsweep sweep adopt s"):
        tracking_of(tracking="http://other")
    with pytest.raises(InputError, match=r"(?s)http://environment.*http://other.*refsweep sweep adopt s"):
        find_sweep(url, "s", "http://other")
    assert find_sweep(url, "s", "http://environment").spec.tracking_uri == "http://environment"


def test_a_sweep_that_recorded_no_mlflow_keeps_its_own_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url, default = begun(), f"sqlite:///{tmp_path}/refsweep-out/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_of() == find_sweep(url, "s").spec.tracking_uri == default
    assert tracking_of(tracking="sqlite:///refsweep-out/mlflow.db") == default, "the default, written out"
    assert find_sweep(url, "s", "sqlite:///refsweep-out/mlflow.db").spec.tracking_uri == default
    with pytest.raises(InputError, match="sweep adopt s"):
        tracking_of(tracking="none")


@pytest.mark.parametrize("name", ["MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
def test_a_setting_that_mlflow_could_not_read_is_named(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "soon")
    assert problem_of() == f"{name}: must be a whole number, got 'soon'"
    monkeypatch.setenv(name, "5")
    check_spec(LEAST)


def test_on_object_storage_the_environment_may_say_where_mlflow_is(monkeypatch: pytest.MonkeyPatch):
    fields = {"storage": "s3://b", "ledger": "postgresql://db/s"}
    assert problem_of(**fields) == "tracking: must be given with s3:// storage"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://m")
    assert settle(check_spec({**LEAST, **fields})).tracking == "http://m"
