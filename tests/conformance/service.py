"""`medrl serve` with a tiny model and two keys, one of them for a single request a minute."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.services import running_service

VARIABLE = "MEDRL_CONFORMANCE"
KEY, LIMITED_KEY = "medrl-conformance", "medrl-conformance-limited"


@dataclass(frozen=True)
class Service:
    """What a client has to know; `openapi`: a file with the app's OpenAPI document."""

    url: str
    key: str
    limited_key: str
    model: str
    tokenizer: str
    openapi: str

    def environment(self) -> dict[str, str]:
        return os.environ | {VARIABLE: json.dumps(asdict(self))}


@contextmanager
def tiny_service(folder: Path) -> Iterator[Service]:
    """A service of its own, its files in `folder`."""
    from medrl.config.keys import KeyConfig, key_hash
    from medrl.config.quotas import QuotaConfig
    from tests.tiny import save_policy

    model = save_policy(folder / "policy")
    key = KeyConfig(id="client", sha256=key_hash(KEY))
    limited = KeyConfig(id="limited", sha256=key_hash(LIMITED_KEY), quotas=QuotaConfig(requests_per_minute=1))
    keys = json.dumps([key.model_dump(exclude_none=True) for key in (key, limited)])
    settings = [f"keys={keys}", "dtype=float32", "kv_cache_gib=0.25", "tool_parser=hermes"]
    with running_service(["serve", str(model), *settings], os.environ) as running:
        openapi = folder / "openapi.json"
        openapi.write_text(json.dumps(_openapi(str(model))), encoding="utf-8")
        yield Service(running.url, KEY, LIMITED_KEY, "medrl", str(model), str(openapi))


def _openapi(model: str) -> dict:
    """Of the app that the service runs; the service itself publishes none."""
    from vllm.entrypoints.launchers.app import build_app

    from medrl.config.serving import ServeConfig
    from serve.launch import vllm_arguments

    return build_app(vllm_arguments(ServeConfig(model=model), model), ("generate",)).openapi()
