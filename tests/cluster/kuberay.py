"""The part of KubeRay 1.7's ray.io/v1 resources that the files of cluster/kuberay use."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from tests.cluster.pods import Count, Label, Name, Resources, Strict, Template


class Metadata(Strict):
    name: Name
    namespace: Name | None = None
    labels: dict[str, Label] = {}


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: Template
    labels: dict[str, Label] = {}


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: Count
    minReplicas: Count
    maxReplicas: Count
    numOfHosts: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _order(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(f"replicas {self.replicas} are not within {self.minReplicas} … {self.maxReplicas}")
        return self


class AuthOptions(Strict):
    """With mode token and no secretName the operator makes the secret."""

    mode: Literal["token"]
    secretName: Name | None = None


class AutoscalerOptions(Strict):
    version: Literal["v2"]
    idleTimeoutSeconds: Count
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    resources: Resources


class ClusterSpec(Strict):
    rayVersion: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: AuthOptions
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = Field(min_length=1)


class JobSpec(Strict):
    entrypoint: str
    backoffLimit: Count
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Count
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    submitterPodTemplate: Template
    rayClusterSpec: ClusterSpec


class ServiceSpec(Strict):
    serveConfigV2: str
    rayClusterConfig: ClusterSpec


class ConfigMap(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class RayResource(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: str
    metadata: Metadata
    spec: dict[str, Any]


SPECS: dict[str, type[Strict]] = {"RayCluster": ClusterSpec, "RayJob": JobSpec, "RayService": ServiceSpec}


def check(document: dict[str, Any]) -> None:
    """Raises pydantic's ValidationError, which names the field, or KeyError for a kind that no file here has."""
    if document["kind"] == "ConfigMap":
        ConfigMap.model_validate(document)
        return
    SPECS[document["kind"]].model_validate(RayResource.model_validate(document).spec)
