"""The manifests fit together and agree with docker-compose.yml. No cluster is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from tests.infra.kuberay import Custom, check_builtin

REPOSITORY = Path(__file__).resolve().parents[2]
K8S = REPOSITORY / "infra" / "k8s"
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


def documents(folder: Path = K8S) -> list[dict[str, Any]]:
    """The resources that kustomization.yaml lists."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = [folder / name for name in kustomization["resources"] if name.endswith(".yaml")]
    return [tree for path in files for tree in yaml.safe_load_all(path.read_text())]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {tree["metadata"]["name"]: tree for tree in documents() if tree["kind"] == kind}


def templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """All pod templates with the names of their owners."""
    for tree in documents():
        name, spec = tree["metadata"]["name"], tree["spec"]
        if tree["kind"] == "RayCluster":
            yield f"{name} head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]
        elif "template" in spec:
            yield name, spec["template"]


def leaves(tree: Any, key: str) -> Iterator[Any]:
    """All values of this key at any depth of the tree."""
    if isinstance(tree, dict):
        for name, part in tree.items():
            if name == key:
                yield part
            yield from leaves(part, key)
    elif isinstance(tree, list):
        for part in tree:
            yield from leaves(part, key)


PODS = dict(templates())


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((K8S / "kustomization.yaml").read_text())["resources"]
    files = {path.name for path in K8S.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {name for name in listed if name.endswith(".yaml")}


EXAMPLES = [yaml.safe_load(path.read_text()) for path in sorted(K8S.glob("examples/*.yaml"))]


def check(tree: dict[str, Any]) -> None:
    if tree["apiVersion"].startswith("ray.io/"):
        TypeAdapter(Custom).validate_python(tree)
    else:
        check_builtin(tree)


@pytest.mark.parametrize(
    "tree", [*documents(), *EXAMPLES], ids=lambda tree: f"{tree['kind']}-{tree['metadata']}"
)
def test_resources_have_the_fields_that_their_kinds_have(tree: dict[str, Any]) -> None:
    check(tree)


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """The resources that `kubectl apply -k` would send, rendered without a cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    made = subprocess.run(["kubectl", "kustomize", str(K8S)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def test_kustomize_renders_every_resource_into_the_namespace(
    rendered: list[dict[str, Any]],
) -> None:
    names = {(tree["kind"], tree["metadata"]["name"]) for tree in rendered}
    written = {(tree["kind"], tree["metadata"]["name"]) for tree in documents()}
    assert names == written | {("ConfigMap", "evenload-postgres-init")}
    for tree in rendered:
        check(tree)
        assert tree["metadata"]["namespace"] == "evenload"
        assert all(":" in image for image in leaves(tree, "image"))
    (script,) = [tree["data"] for tree in rendered if tree["kind"] == "ConfigMap"]
    databases = REPOSITORY / "infra" / "postgres" / "databases.sql"
    assert script == {"databases.sql": databases.read_text()}


def test_the_rendered_policies_let_every_pod_of_evenload_through(
    rendered: list[dict[str, Any]],
) -> None:
    """Postgres and MLflow accept connections from pods with this label, which Ray's pods have."""
    part_of = {"app.kubernetes.io/part-of": "evenload"}
    pods = [tree for tree in rendered if "containers" in str(tree.get("spec", {}))]
    templates = [template for tree in pods for template in leaves(tree, "template")]
    assert len(templates) == len(PODS)
    for template in templates:
        assert part_of.items() <= template["metadata"]["labels"].items()


def test_an_unknown_field_is_found_at_every_depth() -> None:
    deployment = next(tree for tree in documents() if tree["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)
    cluster = next(tree for tree in documents() if tree["kind"] == "RayCluster")
    group = cluster["spec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises((ValidationError, kubernetes_validate.ValidationError)):
        check(cluster)
    cluster = next(tree for tree in documents() if tree["kind"] == "RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(ValidationError, match="maxReplica"):
        check(cluster)


@pytest.mark.parametrize("owner", PODS)
def test_pods_run_without_privileges_and_within_limits(owner: str) -> None:
    pod = PODS[owner]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert owner == "evenload head" or pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not list(leaves(pod, "hostPath"))
    writable = {mount["mountPath"] for one in pod["containers"] for mount in one["volumeMounts"]}
    assert "/tmp" in writable
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert owner == "migrate" or "readinessProbe" in container


@pytest.mark.parametrize("owner", PODS)
def test_mounts_name_existing_volumes_and_volumes_name_existing_claims(owner: str) -> None:
    pod = PODS[owner]["spec"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    claims = named("PersistentVolumeClaim")
    own = {"data"} if owner == "postgres" else set()
    for container in pod["containers"]:
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted <= volumes.keys() | own
    claimed = {claim["claimName"] for claim in leaves(pod, "persistentVolumeClaim")}
    assert claimed <= claims.keys()


def test_the_secret_has_every_key_that_a_pod_needs() -> None:
    made = subprocess.run(
        ["bash", str(K8S / "secrets.sh")], capture_output=True, text=True, check=True
    )
    keys = yaml.safe_load(made.stdout)["stringData"].keys()
    asked = [ref for tree in documents() for ref in leaves(tree, "secretKeyRef")]
    assert {ref["name"] for ref in asked} == {"evenload"}
    assert {ref["key"] for ref in asked} == keys


def test_services_find_pods() -> None:
    labels = [template["metadata"]["labels"].items() for template in PODS.values()]
    for name, service in named("Service").items():
        selector = service["spec"]["selector"].items()
        assert any(selector <= label for label in labels), name


def test_images_are_those_of_compose_and_pinned() -> None:
    kustomization = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    tags = {image["name"]: image["newTag"] for image in kustomization["images"]}
    built = {
        service["image"].split(":")[0]: service["image"].split(":-")[1].rstrip("}")
        for service in COMPOSE["services"].values()
        if service["image"].startswith("evenload")
    }
    assert tags == built
    used = {image for pod in PODS.values() for image in leaves(pod, "image")}
    assert used == {*tags, COMPOSE["services"]["postgres"]["image"]}


def test_workers_and_coordinator_get_the_environment_of_compose() -> None:
    environment = COMPOSE["services"]["ray-worker"]["environment"]
    expected = {
        name: re.sub(r"\$\{\w+:-(.+)\}", r"\1", value)  # as without a .env
        for name, value in environment.items()
        if not value.endswith(":-}")
    }
    for owner in ("evenload head", "evenload cpu", "evenload gpu", "coordinator"):
        container = PODS[owner]["spec"]["containers"][0]
        found = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert expected.keys() <= found.keys(), owner
        for key, value in found.items():
            if key.startswith("EVENLOAD_CLUSTER_"):
                continue
            assert value in (None, "cpu", expected.get(key)), (owner, key)


def test_mlflow_runs_with_the_flags_of_compose() -> None:
    args = PODS["mlflow"]["spec"]["containers"][0]["args"]
    flags = COMPOSE["services"]["mlflow"]["command"]
    assert args == [re.sub(r"\$\{\w+:-(.+)\}", r"\1", flag) for flag in flags]


def test_no_pod_sends_to_the_outside_but_the_head_to_kubernetes() -> None:
    policies = named("NetworkPolicy")
    assert policies["deny-all"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    for name, policy in policies.items():
        for rule in policy["spec"].get("egress", []):
            to_pods = [target for target in rule.get("to", []) if "podSelector" in target]
            assert to_pods or name == "ray-head-to-kubernetes"


def test_the_coordinator_knows_what_the_worker_groups_can_grow_to() -> None:
    env = PODS["coordinator"]["spec"]["containers"][0]["env"]
    told = {entry["name"]: entry.get("value") for entry in env}
    groups = named("RayCluster")["evenload"]["spec"]["workerGroupSpecs"]
    limits = [
        (group["maxReplicas"], container["resources"]["limits"])
        for group in groups
        for container in group["template"]["spec"]["containers"]
    ]
    cores = sum(count * int(limit["cpu"]) for count, limit in limits)
    gpus = sum(count * int(limit.get("nvidia.com/gpu", 0)) for count, limit in limits)
    assert told["EVENLOAD_CLUSTER_CORES"] == str(cores)
    assert told["EVENLOAD_CLUSTER_GPUS"] == str(gpus)
