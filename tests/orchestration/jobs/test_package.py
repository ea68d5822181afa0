"""What is sent with a job, where it may point, and what hosts must have."""

from __future__ import annotations

from pathlib import Path

import pytest
from refsweep.datasets.problems import InputError
from refsweep.orchestration.jobs import package as job_package
from refsweep.orchestration.jobs.hosts import HostNeeds, HostReport, inspect_host, password_hint, problems_of
from refsweep.orchestration.jobs.package import check_places, runtime_env
from refsweep.orchestration.jobs.protocol import JOB_FILE, JobContent
from refsweep.orchestration.registry.versions import versions
from refsweep.tests.orchestration.jobs.answers import OURS, TOKEN, spec_of

# places


def test_places_of_this_machine_alone_are_refused_all_at_once():
    with pytest.raises(InputError) as refused:
        check_places(spec_of(data="data", ledger="sqlite:///here.db", tracking="sqlite:///m.db"))
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["storage", "data", "ledger", "tracking"]
    assert "got './refsweep-out'" in lines[0]


@pytest.mark.parametrize(
    "places",
    [
        {"storage": "/shared/out"},
        {"storage": "/shared/out", "data": "/shared/data", "ledger": "sqlite:////shared/l.db", "tracking": "none"},
        {"storage": "s3://b", "data": "s3://b/d", "ledger": "postgresql://db/s", "tracking": "http://mlflow:5000"},
        {"storage": "/shared/out", "data": "made:refer-kitti?videos=6"},
    ],
)
def test_places_that_a_cluster_can_have_are_taken(places: dict[str, str]):
    check_places(spec_of(**places))


def test_a_host_that_does_not_share_a_folder_or_lacks_a_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").touch()
    monkeypatch.setenv("IS_SET", "x")
    monkeypatch.setenv("IS_EMPTY", "")
    names = ("IS_SET", "IS_EMPTY", "IS_NOT", str(tmp_path), "/is/not")
    report = inspect_host(HostNeeds(names=names, aws=False, shared=(str(tmp_path / "here"), "/not/shared")))
    missing = ["IS_EMPTY", "IS_NOT", "/is/not"]
    assert report == HostReport(versions=versions(), missing=missing, not_shared=["/not/shared"])
    lines = problems_of("10.0.0.3", report, versions())
    assert lines[0] == "host 10.0.0.3 has no IS_EMPTY"
    assert lines[-1].startswith("host 10.0.0.3 does not share /not/shared: use s3://")
    assert problems_of("h", "no disk", OURS) == ["host h can't run refsweep: no disk"]
    other = problems_of("h", HostReport(versions={**OURS, "ray": "1"}, missing=[], not_shared=[]), OURS)
    assert other == ["host h has Ray 1, the machine that submits has 2.60.0"]


def test_credentials_are_looked_for_where_boto3_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    needs = HostNeeds(names=(), aws=True, shared=())
    assert "AWS credentials" in inspect_host(needs).missing[0]
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert inspect_host(needs).missing == []
    monkeypatch.setenv("AWS_PROFILE", "another")
    assert inspect_host(needs).missing, "a profile that does not exist"


def test_what_postgresql_may_lack_is_a_hint_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSSLCERT"):
        monkeypatch.delenv(name, raising=False)
    assert "PGPASSFILE" in (password_hint("postgresql://db/s") or "")
    assert password_hint("sqlite:////x.db") is None
    (tmp_path / ".pgpass").touch()
    assert password_hint("postgresql://db/s") is None


# what travels


def test_what_travels_is_the_wheel_unpacked_the_spec_and_no_dependency(tmp_path: Path):
    spec = spec_of(storage="/shared")
    made = runtime_env(spec, tmp_path, needs=["HF_TOKEN"], settings={"A": "b"}, install=False, token=TOKEN)
    assert made.keys() == {"py_modules", "working_dir", "env_vars"}
    assert sorted(Path(p).name.partition("-")[0] for p in made["py_modules"]) == ["refsweep", "refsweep"]
    assert all(Path(p).is_dir() for p in made["py_modules"]), "Ray would install a wheel's dependencies with pip"
    assert any((Path(p) / "METADATA").exists() for p in made["py_modules"])
    assert made["env_vars"] == {"A": "b", "RAY_JOB_STOP_WAIT_TIME_S": "180"}
    assert (Path(made["working_dir"]) / JOB_FILE).is_file()
    job = JobContent.read(Path(made["working_dir"]))
    assert job == JobContent(spec=spec.as_json(), versions=versions(), needs=["HF_TOKEN"], token=TOKEN)


def test_the_lock_travels_as_a_file_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = runtime_env(spec_of(storage="/shared"), tmp_path, needs=[], settings={}, install=True, token=TOKEN)
    [line] = made["pip"]["packages"]
    name = line.removeprefix("-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/")
    assert "ray==" in (Path(made["working_dir"]) / name).read_text()
    import refsweep

    monkeypatch.setattr(refsweep, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match=r"--install needs requirements\.lock"):
        job_package._lock(tmp_path)
