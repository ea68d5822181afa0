"""A cluster on this machine: its hosts and servers work, break as told, and leave nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from refsweep.cluster.guard import descendants
from refsweep.cluster.local import LocalCluster
from refsweep.cluster.programs import status, write_secret
from refsweep.tests.cluster.conftest import missing
from refsweep.tests.cluster.test_programs import alive, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ON_EVERY_HOST = """
import json, os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0)
def where():
    return [os.readlink("/proc/self/ns/net"), os.environ["RAY_AUTH_MODE"]]
found = {n["NodeName"]: where.options(scheduling_strategy=At(n["NodeID"], soft=False)).remote() for n in ray.nodes()
         if n["Alive"]}
print(json.dumps({name: ray.get(ref, timeout=120) for name, ref in found.items()}))
"""
USE_SERVERS = """
import boto3, mlflow, os, psycopg, pyarrow.fs, sys
who, ledger = sys.argv[1:]
boto3.client("s3").put_object(Bucket="bucket", Key=who, Body=b"by boto3")
s3 = pyarrow.fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region=os.environ["AWS_REGION"])
with s3.open_input_stream("bucket/" + who) as file:
    assert file.read() == b"by boto3"
with psycopg.connect(ledger, connect_timeout=10) as connection:
    connection.execute(f"CREATE TABLE {who} (x int)")
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment(who)).info.run_id
client.log_metric(run, "x", 1.5)
client.log_text(run, "an artifact", "a.txt")
assert mlflow.artifacts.load_text(client.get_run(run).info.artifact_uri + "/a.txt") == "an artifact"
print(run)
"""


def python(cluster: LocalCluster, host: int | None, code: str, *words: str, **environment: str) -> str:
    """A Python program on a host, or on this machine; what it printed."""
    command = [sys.executable, "-c", code, *words]
    if host is None:
        whole = {**os.environ, **cluster.environment(), **environment}
        done = subprocess.run(command, env=whole, capture_output=True, text=True, timeout=300, check=False)
    else:
        done = cluster.run(host, command, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def s3_client(config: Config | None = None) -> Any:
    """By the variables as they are now: boto3's default session keeps the credentials that it met first."""
    return boto3.Session().client("s3", config=config)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_host_is_a_node_and_only_workers_have_cpus(cluster: LocalCluster):
    nodes = {n["node_name"]: n for n in cluster.nodes() if n["state"] == "ALIVE"}
    assert sorted(nodes) == ["host-0", "host-1", "host-2"]
    assert [nodes[f"host-{i}"]["resources_total"].get("CPU", 0.0) for i in range(3)] == [0.0, 1.0, 1.0]
    assert [n["is_head_node"] for _, n in sorted(nodes.items())] == [True, False, False]
    assert len({n["node_ip"] for n in nodes.values()}) == (3 if cluster.namespaces else 1)


def test_a_task_runs_on_every_host_in_a_network_of_its_own(cluster: LocalCluster):
    found = json.loads(python(cluster, 0, ON_EVERY_HOST))
    assert sorted(found) == ["host-0", "host-1", "host-2"]
    assert {mode for _, mode in found.values()} == {"token"}
    assert len({network for network, _ in found.values()}) == (3 if cluster.namespaces else 1)


def test_nobody_is_let_in_without_the_token(cluster: LocalCluster, tmp_path: Path):
    page = f"{cluster.dashboard}/api/v0/nodes"
    assert status(page) == 401
    assert status(page, bearer("0" * 64)) == 403
    assert status(page, bearer(cluster.token_file.read_text())) == 200
    assert cluster.token_file.stat().st_mode & 0o777 == 0o600
    write_secret(tmp_path / "token", "0" * 64)
    done = cluster.run(
        0,
        [sys.executable, "-c", "import ray; ray.init()"],
        environment={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_gcs_rpc_server_reconnect_timeout_s": "5"},
    )
    assert done.returncode != 0
    assert "token" in done.stderr.lower()


@pytest.mark.parametrize("host", [None, 0, 2], ids=["outside", "head", "worker"])
def test_the_servers_are_found_and_used_from_everywhere(cluster: LocalCluster, host: int | None):
    run = python(cluster, host, USE_SERVERS, f"from_{host}".lower(), cluster.ledger).strip()
    store = cluster.run(0, [sys.executable, "-c", f"import mlflow; print(mlflow.get_run('{run}').data.metrics)"])
    assert store.stdout.strip() == "{'x': 1.5}", store.stderr


def test_wrong_rights_are_refused_by_the_servers(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch):
    with psycopg.connect(cluster.ledger, connect_timeout=10) as connection:
        rights = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        assert connection.execute(rights).fetchone() == (False,)
    assert "password" not in cluster.ledger
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(cluster.ledger, connect_timeout=10)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3 = s3_client(config=Config(retries={"total_max_attempts": 1}))
    with pytest.raises(s3.exceptions.ClientError, match=r"403|SignatureDoesNotMatch|AccessDenied"):
        s3.list_objects_v2(Bucket="bucket")


def test_a_killed_host_is_missed_and_comes_back(cluster: LocalCluster):
    before = {host: cluster.pids(host) for host in range(3)}
    assert all(before.values())
    since = time.monotonic()
    cluster.kill_host(2)
    assert cluster.pids(2) == []
    assert not [p for p in before[2] if alive(p)]
    cluster.wait_for_nodes(2)
    assert time.monotonic() - since < 40
    assert all(alive(cluster.pids(host)[0]) for host in (0, 1))
    cluster.start_host(2)
    cluster.wait_for_nodes(3, 120)
    states = [n["state"] for n in cluster.nodes() if n["node_name"] == "host-2"]
    assert states.count("ALIVE") == 1
    assert states.count("DEAD") >= 1
    assert sorted(json.loads(python(cluster, 0, ON_EVERY_HOST))) == ["host-0", "host-1", "host-2"]


def test_after_everything_was_killed_there_is_a_fresh_cluster_at_the_same_place(cluster: LocalCluster):
    old, place = {n["node_id"] for n in cluster.nodes()}, (cluster.address, cluster.dashboard)
    with psycopg.connect(cluster.ledger) as connection:
        connection.execute("CREATE TABLE survives (x int)")
    cluster.restart()
    assert (cluster.address, cluster.dashboard) == place
    assert not old & {n["node_id"] for n in cluster.nodes()}
    with psycopg.connect(cluster.ledger) as connection:
        connection.execute("SELECT x FROM survives")


def connects(address: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(2.0)
        with contextlib.suppress(TimeoutError):
            sock.connect((address, port))
            return True
        return False


def test_a_short_partition_is_silence_and_then_all_goes_on(partitions: LocalCluster):
    cluster = partitions
    nodes = {n["node_id"] for n in cluster.nodes() if n["state"] == "ALIVE"}
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    reach_s3 = [sys.executable, "-c", code, cluster.s3.address, str(cluster.s3.port)]
    assert cluster.run(1, reach_s3).returncode == 0
    cluster.partition(1)
    found = cluster.run(1, reach_s3)
    cluster.heal(1)
    assert "timed out" in found.stderr
    until(lambda: cluster.run(1, reach_s3).returncode == 0)
    assert {n["node_id"] for n in cluster.nodes() if n["state"] == "ALIVE"} == nodes


def test_a_long_partition_loses_the_host_which_is_brought_back(partitions: LocalCluster):
    cluster = partitions
    cluster.partition(1)
    assert cluster.pids(1), "its processes live on"
    cluster.wait_for_nodes(2, 90)
    alive_now = [n["node_name"] for n in cluster.nodes() if n["state"] == "ALIVE"]
    assert sorted(alive_now) == ["host-0", "host-2"]
    cluster.mend()
    assert len([n for n in cluster.nodes() if n["state"] == "ALIVE"]) == 3


def test_stopped_servers_refuse_and_come_back_with_what_they_stored(cluster: LocalCluster):
    python(cluster, None, USE_SERVERS, "stored", cluster.ledger)
    servers = (cluster.s3, cluster.postgres, cluster.mlflow)
    for server in servers:
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            connects(server.address, server.port)
    for server in servers:
        server.start()
    assert s3_client().get_object(Bucket="bucket", Key="stored")["Body"].read() == b"by boto3"
    with psycopg.connect(cluster.ledger) as connection:
        connection.execute("SELECT x FROM stored")
    code = "import mlflow; print(len(mlflow.search_runs(experiment_names=['stored'], output_format='list')))"
    assert python(cluster, None, code).strip() == "1"


def test_paused_servers_are_silent_and_an_open_connection_goes_on_later(cluster: LocalCluster):
    with psycopg.connect(cluster.ledger, autocommit=True) as connection:
        for server in (cluster.s3, cluster.postgres, cluster.mlflow):
            server.pause()
        try:
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                psycopg.connect(cluster.ledger, connect_timeout=2)
            assert status(f"{cluster.mlflow.url}/health") is None
            assert status(cluster.s3.url) is None
        finally:
            for server in (cluster.s3, cluster.postgres, cluster.mlflow):
                server.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    cluster.mlflow.ready()  # it answers in time again, once the machine lets it
    assert status(f"{cluster.mlflow.url}/health") == 200
    assert s3_client().list_objects_v2(Bucket="bucket")["ResponseMetadata"]["HTTPStatusCode"] == 200


def left_behind(cluster: LocalCluster) -> list[str]:
    """Namespaces, links and folders of a cluster."""
    name = getattr(cluster._network, "name", None)
    found = [str(cluster.host_temp(0).parent)] if cluster.host_temp(0).parent.exists() else []
    if name:
        for command in (["ip", "netns"], ["ip", "-br", "link"]):
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
            found += [line for line in lines if name in line]
    return found


STRAY = """
import subprocess, ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0)
def stray():
    return subprocess.Popen(["sh", "-c", "setsid sleep 500 & echo $!"], stdout=subprocess.PIPE).stdout.readline()
print(int(ray.get(stray.remote())))
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_close_leaves_nothing_not_even_what_a_task_started(tmp_path: Path, namespaces: bool, running: LocalCluster):
    if namespaces and not running.namespaces:
        missing("hosts can't have namespaces here")
    cluster = LocalCluster(tmp_path, hosts=2, namespaces=namespaces, servers=namespaces)
    with cluster:
        assert sorted(json.loads(python(cluster, 0, ON_EVERY_HOST))) == ["host-0", "host-1"]
        stray = int(python(cluster, 0, STRAY))
        assert alive(stray)
        assert left_behind(cluster)
        pids = descendants(os.getpid())
        ours = [p for p in pids if str(cluster.host_temp(0).parent) in command_line(p)]
        assert len(ours) >= 4
        if not namespaces:  # the same verbs work on loopback
            cluster.kill_host(1)
            cluster.wait_for_nodes(1)
            cluster.mend()
    assert not alive(stray)
    assert not [p for p in ours if alive(p)]
    assert left_behind(cluster) == []
    cluster.close()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: LocalCluster):
    cluster = LocalCluster(tmp_path, hosts=2)
    before = set(descendants(os.getpid()))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "_wait_for_head", fail)
    with pytest.raises(KeyboardInterrupt):
        cluster.start()
    assert set(descendants(os.getpid())) <= before
    assert left_behind(cluster) == []


CLI = [sys.executable, "-c", "from refsweep.orchestration.cli.main import main; main()", "cluster", "local"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_command_says_where_things_are_and_ends_them_whatever_ends_it(
    tmp_path: Path, number: signal.Signals, running: LocalCluster
):
    began = subprocess.Popen(
        [*CLI, "--hosts", "1", "--json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert began.stdout is not None
    found = json.loads(began.stdout.readline())
    pids = descendants(began.pid)
    settings = Path(found["settings"])
    assert settings == tmp_path / "refsweep-cluster" / "env.sh"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert found["dashboard"].startswith("http://")
    assert len(pids) > 20
    began.send_signal(number)
    out, errors = began.communicate(timeout=180)
    assert out == ""
    assert began.returncode == (-9 if number is signal.SIGKILL else 0), errors
    until(lambda: not [p for p in pids if alive(p)])


def test_the_command_runs_another_with_the_settings_and_gives_its_exit_code(tmp_path: Path, running: LocalCluster):
    shell = 'test -n "$AWS_SECRET_ACCESS_KEY" && . refsweep-cluster/env.sh && echo "at $REFSWEEP_DASHBOARD"; exit 7'
    done = subprocess.run(
        [*CLI, "--hosts", "1", "--", "sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("at http://")
    done = subprocess.run([*CLI, "--hosts", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == "refsweep: hosts must be in 1..200, got 0\n"
