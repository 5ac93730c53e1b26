"""Config of the services: `medrl serve` and `medrl serve-reward`."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, model_validator

from medrl.config.admission import AdmissionConfig
from medrl.config.audit import AuditConfig
from medrl.config.base import build_config, read_yaml
from medrl.config.common import DType, RayConfig
from medrl.config.feedback import FeedbackConfig
from medrl.config.keys import KeysConfig
from medrl.config.logs import LogsConfig
from medrl.config.manners import MannersConfig
from medrl.config.quotas import QuotaConfig
from medrl.config.registry import RegistryConfig
from medrl.config.swap import SwapConfig


class ServiceConfig(KeysConfig):
    """What `medrl serve` and `medrl serve-reward` have in common."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=1, le=65535, description="port to listen on")
    insecure: bool = Field(default=False, description="listen on other machines' side of the network without a key")
    replicas: int = Field(default=1, ge=1, description="copies of the model that share the requests")
    cpus_per_replica: float = Field(default=1.0, gt=0, description="CPUs reserved for each, and its torch threads")
    gpus_per_replica: float = Field(default=0.0, ge=0, description="GPUs reserved for each (0: CPU)")
    max_body_mib: float = Field(default=8.0, gt=0, description="limit on a request's body in MiB; more gets 413")
    drain_seconds: float = Field(default=30.0, ge=0, description="limit for running answers when the service ends")
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _guarded(self):
        if not (self.guarded or self.insecure or _is_loopback(self.host)):
            raise ValueError(
                f"host {self.host} can be reached from other machines: set keys, key_file or api_key_env "
                "(--api-key-env NAME) to ask for a key, or insecure: true (--insecure) to let everybody ask the model"
            )
        return self


ServiceT = TypeVar("ServiceT", bound=ServiceConfig)


class ServeRewardConfig(ServiceConfig):
    """`medrl serve-reward`: a reward model over HTTP, calibrated when it has a calibration."""

    model: str = Field(description="directory of the model")
    dtype: DType = Field(default="float32", description="dtype of the reward model")
    micro_batch_size: int = Field(default=32, ge=1, description="answers per forward pass")
    max_length: int = Field(default=1024, ge=8, description="limit on prompt + answer in tokens; longer gets 422")
    max_items: int = Field(default=256, ge=1, description="limit on the answers in a request; more get 413")
    max_requests: int = Field(default=16, ge=1, description="requests a replica holds at once; more get 503")


class ServeConfig(ServiceConfig):
    """`medrl serve`: a language model with vLLM's OpenAI API."""

    model: str | None = Field(default=None, description="directory of the model; null: the registry says which")
    registry: RegistryConfig | None = Field(
        default=None, description="serve this registry's champion, and follow it when another is promoted"
    )
    swap: SwapConfig = SwapConfig()
    candidate: bool = Field(
        default=False, description="serve the registry's newest version too, at /candidate, on one more replica"
    )
    name: str = Field(default="medrl", min_length=1, description="model name that clients ask for")
    dtype: DType = Field(default="bfloat16", description="dtype the engine samples in")
    max_model_len: int | None = Field(default=None, ge=8, description="longest prompt + answer; null: the model's own")
    kv_cache_gib: float = Field(default=1.0, gt=0, description="CPU: GiB for the KV cache of one engine")
    manners: MannersConfig = MannersConfig()
    playground: bool = Field(default=True, description="serve a page to talk to the model with, at /playground")
    tool_parser: str | None = Field(
        default=None, description="vLLM's parser of the model's tool calls, hermes say; null: tools are refused"
    )
    feedback: FeedbackConfig | None = Field(default=None, description="take feedback on answers; null: none")
    audit: AuditConfig | None = Field(default=None, description="null: no audit")
    logs: LogsConfig = LogsConfig()
    admission: AdmissionConfig = AdmissionConfig()
    quotas: QuotaConfig | None = Field(default=None, description="null: no quotas but those of `keys`")

    @model_validator(mode="after")
    def _has_a_source(self):
        if (self.model is None) == (self.registry is None):
            raise ValueError("set either model (a directory) or registry (its champion)")
        if self.candidate and self.registry is None:
            raise ValueError("candidate needs a registry")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def service_config(
    kind: type[ServiceT], source: str, overrides: list[str], flags: dict[str, Any]
) -> ServiceT:
    """`source`: a YAML file, or the directory of a model. `flags` that are not None come last. ConfigError.

    A file in Ray Serve's format gives its first application's args, and host and port from `http_options`.
    """
    given = [*overrides, *(f"{name}={json.dumps(value)}" for name, value in flags.items() if value is not None)]
    if Path(source).suffix not in (".yaml", ".yml"):
        return build_config(kind, {"model": source}, source="command line", overrides=given)
    values = read_yaml(Path(source))
    if values.get("applications"):
        values = values.get("http_options", {}) | values["applications"][0].get("args", {})
    return build_config(kind, values, source, given)
