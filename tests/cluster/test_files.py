"""The files that describe clusters: what can be known of them without a cluster."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
COMPOSE: dict[str, Any] = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
LAUNCHER: dict[str, Any] = yaml.safe_load((CLUSTER / "ray-launcher.yaml").read_text())
SECRET_NAME = re.compile("PASSWORD|SECRET|TOKEN|ACCESS_KEY|AUTH_KEY")
SECRETS_ELSEWHERE = ("_FILE", "_PATH")  # variables that say where a secret is


# the image


def dockerfile() -> Iterator[tuple[str, str]]:
    """(instruction, rest) of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def seen_by_the_build(path: str) -> bool:
    """Whether a file of the repository is in the build's context; the last pattern that matches decides."""
    seen = True
    for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").replace("**/*", "*")
        deep = "**" in line or pattern == "*"
        if fnmatch.fnmatch(path, pattern) and (deep or path.count("/") == pattern.count("/")):
            seen = line.startswith("!")
    return seen


def test_the_image_is_built_from_the_lock_alone_on_one_python():
    instructions = list(dockerfile())
    python = next(rest for word, rest in instructions if rest.startswith("PYTHON_VERSION="))
    assert re.fullmatch(r"PYTHON_VERSION=3\.11\.\d+", python)
    assert all("${PYTHON_VERSION}-slim" in rest for word, rest in instructions if word == "FROM")
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert [("--require-hashes" in i, "--no-deps" in i) for i in installs] == [(True, False), (False, True)]
    assert not any("index" in rest for _, rest in instructions)


def test_the_image_does_not_run_as_root():
    users = [rest for word, rest in dockerfile() if word == "USER"]
    assert users == ["$USER_ID"]
    default = next(rest for word, rest in dockerfile() if rest.startswith("USER_ID="))
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    user = job["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert default == f"USER_ID={user}"


def test_the_build_sees_what_the_wheel_is_made_of_and_nothing_else():
    packages = runpy.run_path(str(ROOT / "setup.py"))["packages"](ROOT)
    folders = ["/".join(p.split(".")[1:]) for p in packages]
    files = [p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).glob("*.py")]
    assert len(files) > 50
    needed = [
        *files,
        "setup.py",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
        "py.typed",
        "examples/toy.yaml",
    ]
    assert [path for path in needed if not seen_by_the_build(path)] == []
    kept_out = ["cluster/secrets/ray_token", ".git/config", "refsweep-out/ledger.db", "tests/conftest.py", ".env"]
    assert [path for path in kept_out if seen_by_the_build(path)] == []


# compose


def test_what_services_refer_to_exists():
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"]), name
        assert {c["source"] for c in service.get("configs", ())} <= set(COMPOSE["configs"]), name
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in COMPOSE["volumes"], name
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}, name
    hosts = re.findall(r"(?:@|http://|=)([a-z0-9-]+)(?:/mlflow|:\d+)", json.dumps(services))
    assert {"postgres", "s3", "ray-head"} <= set(hosts)
    assert {h for h in hosts if not re.fullmatch(r"[\d.]+|localhost", h)} <= set(services)


def test_every_service_is_watched_and_published_on_loopback_only():
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "network_mode" not in service, name


def test_ray_asks_for_a_token_everywhere_and_secrets_come_from_files():
    for name, service in COMPOSE["services"].items():
        if "ray" in service.get("command", ()):
            assert service["environment"]["RAY_AUTH_MODE"] == "token", name
            assert "ray_token" in service["secrets"], name
        for variable, value in service.get("environment", {}).items():
            if SECRET_NAME.search(variable) and variable != "RAY_AUTH_MODE":
                assert variable.endswith(SECRETS_ELSEWHERE), f"{name}: {variable}"
            if str(value).startswith("/run/secrets/"):
                assert Path(value).name in service["secrets"], f"{name}: {variable}"
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "cluster/secrets/" in ignored


def script(text: str, tmp_path: Path) -> str:
    """A container's shell script, for this machine."""
    text = text.replace("$$", "$").replace("/run/secrets/", f"{tmp_path}/")
    return text.replace("/data", f"{tmp_path}/data").replace("exec rclone", "exec echo $RCLONE_AUTH_KEY")


def test_the_entry_point_writes_a_password_file_that_libpq_reads(tmp_path: Path):
    (tmp_path / "postgres_password").write_text("pass\n")
    shell, flags, text, *rest = COMPOSE["services"]["ray-head"]["entrypoint"]
    command = [shell, flags, script(text, tmp_path), *rest, "echo", "a b", "c"]
    done = subprocess.run(
        command, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a b c\n"
    passwords = tmp_path / ".pgpass"
    assert passwords.read_text() == "postgres:5432:*:refsweep:pass\n"
    assert passwords.stat().st_mode & 0o777 == 0o600


def test_the_s3_server_takes_its_keys_from_the_clients_file_and_makes_the_buckets(tmp_path: Path):
    (tmp_path / "s3_credentials").write_text("[default]\naws_access_key_id = key\naws_secret_access_key=se=cret\n")
    service = COMPOSE["services"]["s3"]
    command = [*service["entrypoint"], script(service["command"][0], tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "key,se=cret"
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["mlflow", "sweeps"]


# the launcher


def launcher_schema() -> dict[str, Any]:
    spec = importlib.util.find_spec("ray")  # found, not imported: that takes seconds
    assert spec
    assert spec.origin
    return dict(json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text()))


def test_the_launcher_file_keeps_rays_schema():
    jsonschema.validate(LAUNCHER, launcher_schema())
    with pytest.raises(jsonschema.ValidationError, match="spot"):
        jsonschema.validate({**LAUNCHER, "spot": True}, launcher_schema())


def test_the_launchers_head_is_on_demand_and_holds_no_trials():
    types = LAUNCHER["available_node_types"]
    head = types.pop(LAUNCHER["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in types.values():
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert worker["min_workers"] == worker["max_workers"] == LAUNCHER["max_workers"]
    # else Ray's defaults for the cloud install a Ray of their own
    assert [LAUNCHER[f"{part}setup_commands"] for part in ("", "head_", "worker_")] == [[], [], []]
    token = next(o for o in LAUNCHER["docker"]["run_options"] if "RAY_AUTH_TOKEN_PATH" in o).rpartition("=")[2]
    assert token in LAUNCHER["file_mounts"]


# SLURM, and what people are told to type


def test_the_sbatch_script_is_bash_and_asks_to_be_queued_again():
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sbatch"], check=True)
    options = set(re.findall(r"^#SBATCH (\S+)", (CLUSTER / "slurm.sbatch").read_text(), re.MULTILINE))
    assert {"--requeue", "--signal=B:TERM@120", "--no-kill", "--open-mode=append"} <= options


def test_every_command_that_is_named_exists():
    from refsweep.orchestration.cli.main import app
    from typer.main import get_command

    named = set()
    for path in CLUSTER.iterdir():
        if path.is_file() and path.suffix != ".py":
            named |= set(re.findall(r"refsweep (sweep|cluster|data|model) ([a-z]+)", path.read_text()))
    assert ("sweep", "run") in named
    groups: Any = get_command(app)
    known = {(group, command) for group, g in groups.commands.items() for command in getattr(g, "commands", ())}
    assert named <= known
