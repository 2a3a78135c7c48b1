"""Models of the KubeRay v1 resources that the manifests use. They refuse unknown fields.

Source: ray-operator/apis/ray/v1/{raycluster,rayjob}_types.go of github.com/ray-project/kuberay
(Apache-2.0). Its generated CRDs are 1 MB, mostly pod schema, so pods are checked against the schema
of Kubernetes instead.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

KUBERNETES = "1.31"


def check_builtin(tree: dict[str, Any]) -> None:
    """Raises: ValidationError: Kubernetes does not know a field, or it has another type"""
    kubernetes_validate.validate(tree, KUBERNETES, strict=True)


def _is_pod(template: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "of-a-template"} | template.get("metadata", {})
    check_builtin({"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata})
    return template


def _is_environment(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    _is_pod({"spec": {"containers": [{"name": "c", "image": "i", "env": entries}]}})
    return entries


PodTemplate = Annotated[dict[str, Any], AfterValidator(_is_pod)]


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AutoscalerOptions(Fields):
    resources: dict[str, Any] | None = None
    image: str | None = None
    imagePullPolicy: str | None = None
    securityContext: dict[str, Any] | None = None
    env: Annotated[list[dict[str, Any]], AfterValidator(_is_environment)] = []
    idleTimeoutSeconds: PositiveInt | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None


class HeadGroup(Fields):
    serviceType: str | None = None
    enableIngress: bool | None = None
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(Fields):
    groupName: str
    replicas: NonNegativeInt = 0
    minReplicas: NonNegativeInt
    maxReplicas: NonNegativeInt
    numOfHosts: PositiveInt = 1
    idleTimeoutSeconds: PositiveInt | None = None
    rayStartParams: dict[str, str]
    template: PodTemplate


class RayClusterSpec(Fields):
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []
    rayVersion: str | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    suspend: bool | None = None


class RayJobSpec(Fields):
    entrypoint: str
    runtimeEnvYAML: str | None = None
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode"] = "K8sJobMode"
    clusterSelector: dict[str, str] | None = None
    rayClusterSpec: RayClusterSpec | None = None
    backoffLimit: NonNegativeInt | None = None
    activeDeadlineSeconds: PositiveInt | None = None
    shutdownAfterJobFinishes: bool | None = None


class RayCluster(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: dict[str, Any]
    spec: RayClusterSpec


class RayJob(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: dict[str, Any]
    spec: RayJobSpec


Custom = Annotated[RayCluster | RayJob, Field(discriminator="kind")]
