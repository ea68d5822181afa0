"""What jobs are made of, without a cluster: ids, versions, secrets, places, doors that stay shut."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.tune.execution import class_cache
from refsweep.datasets.problems import InputError
from refsweep.orchestration.cli.output import WorkFailedError
from refsweep.orchestration.execution import tune as executor
from refsweep.orchestration.jobs import package as job_package
from refsweep.orchestration.jobs.client import Job, Jobs, next_id, number_of, raise_failure, said_at_the_end
from refsweep.orchestration.jobs.dashboard import connect
from refsweep.orchestration.jobs.hosts import Seen, Wanted, look, password_hint, problems_of
from refsweep.orchestration.jobs.package import JOB_FILE, check_places, runtime_env
from refsweep.orchestration.registry.versions import mismatches, versions
from refsweep.orchestration.registry.wheel import code_hash, write_wheel
from refsweep.orchestration.spec.credentials import holds_password, looks_secret, names_needed, plain_settings
from refsweep.orchestration.spec.read import make_spec
from refsweep.orchestration.spec.schema import SweepSpec


def spec_of(**parts: Any) -> SweepSpec:
    objective = {"metric": "loss", "mode": "min"}
    return make_spec({"name": "s", "trainable": "toy", "data": "none", "objective": objective, **parts})


# ids


@pytest.mark.parametrize(
    ("ids", "following"),
    [
        ([], "a-1"),
        (["a-1", "a-2"], "a-3"),
        (["a-9", "a-10"], "a-11"),  # numbers, not text
        (["a-1-7", "b-4", "a-x", "ba-3", "a.1-2", "raysubmit_Xy-8"], "a-1"),  # other sweeps', also of `a-1`
    ],
)
def test_the_next_id_is_one_more_than_the_highest_of_this_sweep(ids: list[str], following: str):
    assert next_id("a", ids) == following


def test_an_id_belongs_to_one_sweep_only():
    assert number_of("a-1-2", "a-1") == 2
    assert number_of("a-1-2", "a") is None
    assert number_of("axb-2", "a.b") is None, "a dot in a name is a dot"


# versions

OURS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0", "refsweep": "abc"}


@pytest.mark.parametrize("same", [{"python": "3.11.9"}, {"torch": "2.15.0+cu128"}, {}])
def test_what_makes_no_difference_is_no_mismatch(same: dict[str, str]):
    assert mismatches(OURS, {**OURS, **same}, "the cluster") == []


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"python": "3.12.1"}, "the cluster has Python 3.12.1, the machine that submits has 3.11.7"),
        ({"ray": "2.60.1"}, "the cluster has Ray 2.60.1, the machine that submits has 2.60.0"),
        ({"torch": "none"}, "the cluster has torch none, the machine that submits has 2.15.0"),
        ({"refsweep": "abd"}, "the cluster has refsweep abd, the machine that submits has abc"),
    ],
)
def test_every_mismatch_is_named_with_both_versions(other: dict[str, str], line: str):
    assert mismatches(OURS, {**OURS, **other}, "the cluster") == [line]
    assert len(mismatches(OURS, {"python": "3.1.0", "ray": "1", "torch": "1", "refsweep": "1"}, "x")) == 4


def test_the_hash_of_the_code_is_that_of_the_unpacked_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import refsweep

    here = code_hash()
    with zipfile.ZipFile(write_wheel(tmp_path)) as wheel:
        wheel.extractall(tmp_path / "there")
    there = tmp_path / "there" / "refsweep"
    monkeypatch.setattr(refsweep, "__file__", str(there / "__init__.py"))
    assert code_hash() == here
    (there / "orchestration" / "driver.py").write_text("# changed")
    assert code_hash() != here
    assert versions()["refsweep"] == code_hash()


# secrets


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "PGPASSWORD",
        "HF_TOKEN",
        "api_key",
        "OPENAI_APIKEY",
        "DB_PASS",
        "MLFLOW_TRACKING_PASSWORD",
        "GOOGLE_CREDENTIALS",
        "AWS_SESSION_TOKEN",
        "my_secret",
        "NETRC_AUTH",
        "TOKENS",
    ],
)
def test_names_of_secrets_are_refused(name: str):
    assert looks_secret(name)
    with pytest.raises(InputError) as refused:
        plain_settings([f"{name}=hunter2"])
    assert name in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "TOKENIZERS_PARALLELISM",
        "OMP_NUM_THREADS",
        "PGPASSFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ENDPOINT_URL",
        "MLFLOW_TRACKING_URI",
        "AUTHOR",
        "COMPASS",
        "PATHS",
    ],
)
def test_names_of_places_and_settings_are_taken(name: str):
    assert plain_settings([f"{name}=a=b"]) == {name: "a=b"}


@pytest.mark.parametrize(
    "value",
    ["postgresql://me:hunter2@db/sweeps", "http://u:hunter2@proxy:80/", "postgresql://db/s?user=me&password=hunter2"],
)
def test_passwords_in_urls_are_refused_without_being_repeated(value: str):
    assert holds_password(value)
    with pytest.raises(InputError) as refused:
        plain_settings([f"PLACE={value}"])
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InputError, match="no URL with a password") as refused:
        check_places(spec_of(storage="/shared", fixed={"fail_once": value}))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "value", ["http://host:8265/a@b", "postgresql://me@db:5432/sweeps", "s3://bucket/a:b", "a:b@c"]
)
def test_urls_without_a_password_are_taken(value: str):
    assert not holds_password(value)


@pytest.mark.parametrize("text", ["NAME", "=x", "A B=c", "1A=x", "RAY_ADDRESS=x", "PYTHONPATH=/x", "REFSWEEP_X=1"])
def test_settings_that_are_none_of_ours_are_refused(text: str):
    with pytest.raises(InputError, match="--env"):
        plain_settings([text])


def test_needs_are_names_and_absolute_paths():
    assert names_needed(["HF_TOKEN", "/etc/x", "~/.pgpass"]) == ["HF_TOKEN", "/etc/x", "~/.pgpass"]
    with pytest.raises(InputError) as refused:
        names_needed(["HF_TOKEN=hunter2"])
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InputError):
        names_needed(["some/file"])


def test_tune_copies_no_secret_into_what_ray_logs(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "hunter2")

    def copied() -> str:
        return str(class_cache._ActorClassCache().get(type("Any", (), {}))._default_options)

    assert copied().count("hunter2") == 4, "Ray's own way: this test can fail"
    with executor._tune_environment():
        assert "hunter2" not in copied()
        assert "PL_DISABLE_FORK" in copied()
    assert copied().count("hunter2") == 4


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
    wanted = Wanted(
        ("IS_SET", "IS_EMPTY", "IS_NOT", str(tmp_path), "/is/not"), False, (str(tmp_path / "here"), "/not/shared")
    )
    seen = look(wanted)
    assert seen == Seen(versions(), ["IS_EMPTY", "IS_NOT", "/is/not"], ["/not/shared"])
    lines = problems_of("10.0.0.3", seen, versions())
    assert lines[0] == "host 10.0.0.3 has no IS_EMPTY"
    assert lines[-1].startswith("host 10.0.0.3 does not share /not/shared: use s3://")
    assert problems_of("h", "no disk", OURS) == ["host h can't run refsweep: no disk"]
    other = problems_of("h", Seen({**OURS, "ray": "1"}, [], []), OURS)
    assert other == ["host h has Ray 1, the machine that submits has 2.60.0"]


def test_credentials_are_looked_for_where_boto3_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "AWS credentials" in look(Wanted((), True, ())).missing[0]
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert look(Wanted((), True, ())).missing == []
    monkeypatch.setenv("AWS_PROFILE", "another")
    assert look(Wanted((), True, ())).missing, "a profile that is not there"


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
    made = runtime_env(spec_of(storage="/shared"), tmp_path, needs=["HF_TOKEN"], settings={"A": "b"}, install=False)
    assert made.keys() == {"py_modules", "working_dir", "env_vars"}
    assert sorted(Path(p).name.partition("-")[0] for p in made["py_modules"]) == ["refsweep", "refsweep"]
    assert all(Path(p).is_dir() for p in made["py_modules"]), "Ray would install a wheel's dependencies with pip"
    assert any((Path(p) / "METADATA").exists() for p in made["py_modules"])
    assert made["env_vars"] == {"A": "b", "RAY_JOB_STOP_WAIT_TIME_S": "180"}
    job = json.loads((Path(made["working_dir"]) / JOB_FILE).read_text())
    assert job == {"spec": spec_of(storage="/shared").as_json(), "versions": versions(), "needs": ["HF_TOKEN"]}


def test_the_lock_travels_as_a_file_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = runtime_env(spec_of(storage="/shared"), tmp_path, needs=[], settings={}, install=True)
    [line] = made["pip"]["packages"]
    name = line.removeprefix("-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/")
    assert "ray==" in (Path(made["working_dir"]) / name).read_text()
    import refsweep

    monkeypatch.setattr(refsweep, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InputError, match=r"--install needs requirements\.lock"):
        job_package._lock(tmp_path)


# how a job ended


def job_of(state: str, code: int | None) -> Job:
    return Job("s-1", "s", state, code, "Ray's words", "", None, None)


def test_why_a_job_ended_is_what_its_driver_said_last():
    log = ["Runtime env is setting up.", "trial 0  running", "refsweep: storage: must be", "  a folder"]
    assert said_at_the_end(log, "Ray's words") == "storage: must be\n  a folder"
    assert said_at_the_end(["a", "b"], "Ray's words") == "a\nb"
    assert said_at_the_end([], "Ray's words") == "Ray's words"


@pytest.mark.parametrize(
    ("state", "code", "error", "says"),
    [
        ("failed", 2, InputError, "no such metric"),
        ("failed", 1, WorkFailedError, "no such metric"),
        ("failed", -9, WorkFailedError, "killed by signal 9"),
        ("failed", None, WorkFailedError, "Ray's words"),
        ("stopped", None, WorkFailedError, "stopped"),
    ],
)
def test_every_end_but_success_is_an_error_of_its_kind(state: str, code: int | None, error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        raise_failure(job_of(state, code), ["refsweep: no such metric"])
    raise_failure(job_of("succeeded", 0), [])


# doors

Answer = Callable[[str, str | None], tuple[int, str]]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Answer], str]]:
    """Starts a server that answers GET by a function of path and Authorization; its address."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                code, text = answer(self.path, self.headers.get("Authorization"))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def dashboard(token: str | None, ray: str = "2.60.0", heard: list[str | None] | None = None) -> Answer:
    """A cluster that wants a token, or none."""

    def answer(path: str, authorization: str | None) -> tuple[int, str]:
        if heard is not None:
            heard.append(authorization)
        if token is not None and authorization != f"Bearer {token}":
            return (401, "missing") if authorization is None else (403, "invalid")
        return (200, json.dumps({"version": "4", "ray_version": ray})) if path == "/api/version" else (200, "[]")

    return answer


def test_a_cluster_without_token_is_refused_unless_told_and_gets_no_token_of_ours(
    door: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
):
    heard: list[str | None] = []
    url = door(dashboard(None, heard=heard))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with pytest.raises(InputError, match="asks nobody for a token"):
        connect(url)
    assert Jobs(url, insecure=True).all() == []
    assert set(heard) == {None}


def test_the_token_is_taken_from_where_ray_takes_it(
    door: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    url = door(dashboard("right"))
    with pytest.raises(InputError, match="asks for a token, and there is none here"):
        connect(url)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH must be a file that can be read"):
        connect(url)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert Jobs(url).all() == []
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-token")
    with pytest.raises(InputError, match="does not take this token") as refused:
        connect(url)
    assert "wrong-token" not in str(refused.value)


def test_a_ray_address_in_the_environment_does_not_replace_the_cluster(
    door: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert Jobs(door(dashboard(None)), insecure=True).all() == []


@pytest.mark.parametrize(("code", "text"), [(200, "<html>"), (404, "no"), (302, ""), (200, "[1]"), (500, "{}")])
def test_what_is_no_dashboard_is_told(door: Callable[[Answer], str], code: int, text: str):
    with pytest.raises(InputError, match=f"must be a Ray dashboard, got http.*{code}"):
        connect(door(lambda *_: (code, text)))


@pytest.mark.parametrize(
    "address", ["head:8265", "ftp://head", "http://", "http://head:x", "ray://head:10001", "auto", "http://h?a=b"]
)
def test_what_is_no_address_is_told(address: str):
    with pytest.raises(InputError, match="--cluster must be the address of a Ray dashboard"):
        connect(address)


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(InputError, match="no user and no password") as refused:
        connect("http://me:hunter2@head:8265")
    assert "hunter2" not in str(refused.value)


def test_a_cluster_that_is_not_there_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as listener:  # bound, and nobody listens
        listener.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(InputError, match=r"no cluster answers at .*refused"):
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - began < 5
    with pytest.raises(InputError, match=r"no cluster answers at http://no-such-host\.invalid"):
        connect("http://no-such-host.invalid:8265")


def test_a_cluster_of_another_ray_is_refused_before_anything_is_sent(door: Callable[[Answer], str]):
    asked: list[str] = []
    other = dashboard(None, ray="2.9.3")

    def answer(path: str, authorization: str | None) -> tuple[int, str]:
        asked.append(path)
        return other(path, authorization)

    jobs = Jobs(door(answer), insecure=True)
    with pytest.raises(InputError, match=r"the cluster has Ray 2\.9\.3, the machine that submits has "):
        jobs.submit(spec_of(storage="/shared"))
    assert set(asked) == {"/api/version"}


def listed(states: Sequence[str]) -> str:
    common = {"type": "SUBMISSION", "entrypoint": "x", "metadata": {"refsweep.sweep": "s"}, "start_time": 1}
    return json.dumps([{**common, "submission_id": f"s-{n}", "status": s} for n, s in enumerate(states, 1)])


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_sweep_that_runs_is_not_submitted_again(door: Callable[[Answer], str], state: str):
    ray = versions()["ray"]

    def answer(path: str, authorization: str | None) -> tuple[int, str]:
        return dashboard(None, ray)(path, authorization) if "version" in path else (200, listed(["FAILED", state]))

    jobs = Jobs(door(answer), insecure=True)
    with pytest.raises(InputError, match="sweep 's' runs already, as job s-2"):
        jobs.submit(spec_of(storage="/shared"))
    with pytest.raises(InputError, match=r"no job of sweep 't' on .*; there are: s"):
        jobs.of("t")
    assert [job.id for job in jobs.of("s")] == ["s-1", "s-2"]
