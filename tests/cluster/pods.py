"""The part of Kubernetes' pods that the files of cluster/kuberay use, held to its security standard `restricted`.

The API server drops or refuses what it does not know; here every unknown field is an error.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator


def not_latest(image: str) -> str:
    if image.endswith(":latest"):
        raise ValueError("`latest` is another image every day")
    return image


Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|[kMGT]i?)?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
Image = Annotated[str, StringConstraints(pattern="^[^:]+:[^:]+$"), AfterValidator(not_latest)]
ResourceName = Literal["cpu", "memory", "nvidia.com/gpu"]
Count = Annotated[int, Field(ge=0, strict=True)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Resources(Strict):
    limits: dict[ResourceName, Quantity]
    requests: dict[ResourceName, Quantity]


class SeccompProfile(Strict):
    type: Literal["RuntimeDefault", "Localhost"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(ge=1, strict=True)]
    fsGroup: Count | None = None
    seccompProfile: SeccompProfile


class Capabilities(Strict):
    drop: list[Literal["ALL"]] = Field(min_length=1)


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    capabilities: Capabilities


class HttpGet(Strict):
    path: Annotated[str, StringConstraints(pattern="^/")]
    port: Port


class Probe(Strict):
    httpGet: HttpGet
    initialDelaySeconds: Count = 0
    periodSeconds: Annotated[int, Field(ge=1)] = 10
    timeoutSeconds: Annotated[int, Field(ge=1)] = 1
    failureThreshold: Annotated[int, Field(ge=1)] = 3


class Exec(Strict):
    command: list[str] = Field(min_length=1)


class Hook(Strict):
    exec: Exec


class Lifecycle(Strict):
    preStop: Hook


class ContainerPort(Strict):
    containerPort: Port
    name: Annotated[str, StringConstraints(pattern="^[a-z0-9-]{1,15}$")]


class SecretKey(Strict):
    name: Name
    key: str


class ValueFrom(Strict):
    secretKeyRef: SecretKey


class Variable(Strict):
    name: Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Mount(Strict):
    name: Name
    mountPath: Annotated[str, StringConstraints(pattern="^/")]


class Container(Strict):
    name: Name
    image: Image
    resources: Resources
    securityContext: ContainerSecurity
    ports: list[ContainerPort] = []
    env: list[Variable] = []
    lifecycle: Lifecycle | None = None
    readinessProbe: Probe | None = None
    livenessProbe: Probe | None = None
    volumeMounts: list[Mount] = []


class Claim(Strict):
    claimName: Name


class EmptyDir(Strict):
    medium: Literal["Memory", ""] = ""
    sizeLimit: Quantity


class ConfigMapName(Strict):
    name: Name


class Volume(Strict):
    name: Name
    persistentVolumeClaim: Claim | None = None
    emptyDir: EmptyDir | None = None
    configMap: ConfigMapName | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Volume:
        if len(self.model_fields_set) != 2:
            raise ValueError(f"volume {self.name} must have exactly one source")
        return self


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class Pod(Strict):
    securityContext: PodSecurity
    containers: list[Container] = Field(min_length=1)
    volumes: list[Volume] = []
    tolerations: list[Toleration] = []
    terminationGracePeriodSeconds: Count = 30
    restartPolicy: Literal["Never", "OnFailure", "Always"] | None = None

    @model_validator(mode="after")
    def _mounts(self) -> Pod:
        volumes = {volume.name for volume in self.volumes}
        mounted = {mount.name for container in self.containers for mount in container.volumeMounts}
        if mounted != volumes:
            raise ValueError(f"mounted {sorted(mounted)}, but the volumes are {sorted(volumes)}")
        return self

    @model_validator(mode="after")
    def _drains_in_time(self) -> Pod:
        for container in self.containers:
            command = " ".join(container.lifecycle.preStop.exec.command) if container.lifecycle else ""
            grace = re.search(r"--grace-period (\d+)", command)
            if grace and int(grace[1]) >= self.terminationGracePeriodSeconds:
                raise ValueError(f"terminationGracePeriodSeconds {self.terminationGracePeriodSeconds} kills what "
                                 f"`ray stop` gives {grace[1]} s")
        return self


class Template(Strict):
    spec: Pod
