"""The files for KubeRay, against its resource definitions."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = {name: yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text()) for name in ("raycluster", "rayjob")}
SECRET_NAME = re.compile("PASSWORD|SECRET|TOKEN|ACCESS_KEY")


def strict(schema: Any) -> Any:
    """A CRD's schema in which an unknown field is an error, as `kubectl apply` makes it."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "format"}
    if "properties" in schema and not {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(schema):
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def crds(shared: Path) -> dict[str, Any]:
    """JSON schemas of KubeRay's resources."""
    found = {}
    for name in KUBERAY:
        crd = yaml.load((shared / "schemas" / "kuberay" / f"ray.io_{name}s.yaml").read_text(), yaml.CSafeLoader)
        version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
        found[name] = strict(version["schema"]["openAPIV3Schema"])
    return found


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_files(name: str, crds: dict[str, Any]):
    assert [e.message for e in jsonschema.Draft7Validator(crds[name]).iter_errors(KUBERAY[name])] == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.backofLimit", 3, "backofLimit"),
        ("spec.backoffLimit", "3", "integer"),
        ("spec.rayClusterSpec.authOptions.mode", "tokens", "tokens"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.imag", "x", "imag"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.tolerations.0.efect", "x", "efect"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.resources.requests.cpu", "four", "four"),
    ],
)
def test_the_check_of_kuberays_files_can_fail(crds: dict[str, Any], path: str, value: Any, message: str):
    broken = copy.deepcopy(KUBERAY["rayjob"])
    *parents, last = path.split(".")
    at: Any = broken
    for part in parents:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.Draft7Validator(crds["rayjob"]).validate(broken)


def clusters() -> list[Any]:
    return [KUBERAY["raycluster"]["spec"], KUBERAY["rayjob"]["spec"]["rayClusterSpec"]]


@pytest.mark.parametrize("cluster", clusters(), ids=list(KUBERAY))
def test_kuberays_clusters_ask_for_a_token_and_name_secrets_only(cluster: Any):
    assert f"\nray=={cluster['rayVersion']} " in (ROOT / "requirements.lock").read_text()
    assert cluster["authOptions"] == {"mode": "token", "secretName": "refsweep-ray"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert pod["securityContext"]["runAsNonRoot"]
        for variable in pod["containers"][0]["env"]:
            secret = SECRET_NAME.search(variable["name"])
            assert set(variable["valueFrom"]) == {"secretKeyRef"} if secret else "value" in variable, variable["name"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("cluster", clusters(), ids=list(KUBERAY))
def test_kuberays_workers_are_spot_nodes_with_gpus_and_the_head_is_not(cluster: Any):
    head = cluster["headGroupSpec"]
    rules = head["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    for worker in cluster["workerGroupSpecs"]:
        pod = worker["template"]["spec"]
        (spot,) = pod["nodeSelector"]
        assert {"key": spot, "operator": "DoesNotExist"} in rules["nodeSelectorTerms"][0]["matchExpressions"]
        assert spot in {toleration["key"] for toleration in pod["tolerations"]}
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_cluster_that_stays_keeps_the_heads_tables():
    options = KUBERAY["raycluster"]["spec"]["gcsFaultToleranceOptions"]
    assert set(options["redisPassword"]["valueFrom"]) == {"secretKeyRef"}


def test_the_pods_of_both_files_are_the_same_but_for_the_spec():
    staying, job = (copy.deepcopy(cluster) for cluster in clusters())
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["volumeMounts"].pop()
    pod["volumes"].pop()
    assert staying["headGroupSpec"] == job["headGroupSpec"]
    assert staying["workerGroupSpecs"] == job["workerGroupSpecs"]


def test_the_ray_job_restarts_a_killed_driver_with_a_spec_that_is_there():
    job = KUBERAY["rayjob"]["spec"]
    assert job["backoffLimit"] > 0
    assert job["shutdownAfterJobFinishes"]
    assert job["ttlSecondsAfterFinished"] > 0
    *command, spec = job["entrypoint"].split()
    assert command == ["refsweep", "sweep", "run", "--plain"]
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == str(Path(spec).parent))
    assert any(v["name"] == mount["name"] and "configMap" in v for v in pod["volumes"])
