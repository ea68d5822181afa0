"""Secrets are kept out of what a cluster stores of a job."""

from __future__ import annotations

import pytest
from ray.tune.execution import class_cache
from refsweep.datasets.problems import InputError
from refsweep.orchestration.execution.tune_environment import tune_environment
from refsweep.orchestration.jobs.package import check_places
from refsweep.orchestration.spec.credentials import holds_password, looks_secret, names_needed, plain_settings
from refsweep.tests.orchestration.jobs.answers import spec_of


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
    with pytest.raises(InputError, match="must not contain a URL with a password") as refused:
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
    with tune_environment():
        assert "hunter2" not in copied()
        assert "'runtime_env': {}" in copied(), "an actor with one of its own starts in a new process"
    assert copied().count("hunter2") == 4
