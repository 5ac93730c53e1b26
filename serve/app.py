"""A language model behind vLLM's own OpenAI app, in a Ray Serve deployment (`medrl serve`)."""

# No `annotations` from __future__: Ray Serve reads the class of build's parameter.

import asyncio
import os
import secrets
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import torch
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from medrl.config.keys import KeyConfig, load_keys
from medrl.config.serving import ServeConfig
from serve.admin import version_routes
from serve.auth import Authorization
from serve.context import RequestContexts
from serve.escalation import EscalationRules, load_rules
from serve.feedback import feedback_routes
from serve.manners import Manners
from serve.page import playground_routes
from serve.request_ids import RequestIds
from serve.routes import OwnRoutes
from serve.swap.compatible import checked_path
from serve.swap.conductor import Conductor
from serve.swap.follower import Follower
from serve.swap.gate import Gate, Gated
from serve.swap.link import Link
from serve.swap.weights import Weights
from serve.versions import unregistered

GIB = 2**30
HEALTH_SECONDS = 2.0  # between two looks whether a replica is well


@serve.deployment
@serve.ingress()
class ChatService:
    """One replica: an engine, and vLLM's app with all its routes around it."""

    async def __init__(
        self, config: ServeConfig, keys: list[KeyConfig], rules: EscalationRules | None, secret: bytes,
        conductor: DeploymentHandle | None,
    ) -> None:
        _set_environment(on_cpu=not torch.accelerator.is_available())
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.entrypoints.launchers.app import build_app

        self.config = config
        self.keys = keys
        self.rules = rules
        self.ids = RequestIds(secret)
        self.conductor = conductor
        self.gate = Gate()
        link = Link(conductor) if conductor else None
        target = await link.first_target() if link else None
        model = await asyncio.to_thread(checked_path, target) if target else str(config.model)
        arguments = vllm_arguments(config, model)
        self.resources = AsyncExitStack()
        engine = await self.resources.enter_async_context(build_async_engine_client(arguments))
        tasks = await engine.get_supported_tasks()
        self.openai = build_app(arguments, tasks, engine.model_config)
        await init_app_state(engine, self.openai.state, arguments, tasks)
        weights = Weights(engine)
        if link and target:
            follower = Follower(link.next_order, self.gate, weights, config.swap, target, await weights.name(target))
            self.following = asyncio.create_task(follower.run())
            await self.gate.opened()
        else:
            version = unregistered(Path(model))
            await weights.label(version)
            self.gate.open(version)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """vLLM's app inside what every request passes, the innermost first."""
        own = [*version_routes(self.gate, self.conductor), *feedback_routes(self.config.feedback, self.ids),
               *playground_routes(self.config)]
        app: ASGIApp = OwnRoutes(Gated(self.openai, self.gate), own)
        app = Manners(app, self.config.manners, self.rules, self.config.name)
        app = Authorization(app, self.keys)
        return RequestContexts(app, self.ids)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica of which this raises."""
        if self.gate.broken:
            raise RuntimeError("the version to be served could not be loaded")

    async def __del__(self) -> None:
        await self.resources.aclose()


def vllm_arguments(config: ServeConfig, model: str) -> Namespace:
    """The arguments of `vllm serve` that say what the config says, for the model in a directory."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    words = [
        "--model", model, "--served-model-name", config.name, "--dtype", config.dtype,
        "--disable-fastapi-docs", "--disable-log-stats", "--load-format", "safetensors",
        "--worker-extension-cls", "serve.swap.worker.Loading",
    ]
    if config.max_model_len:
        words += ["--max-model-len", str(config.max_model_len)]
    if current_platform.is_cpu():
        words += ["--kv-cache-memory-bytes", str(int(config.kv_cache_gib * GIB)), "--enforce-eager"]
    arguments: Any = parser.parse_args(words)
    validate_parsed_serve_args(arguments)
    return arguments


def _set_environment(on_cpu: bool) -> None:
    """What vLLM reads when it is first imported."""
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # replicas share the cores
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else helpers call a C++ compiler, for tens of seconds


def build(config: ServeConfig) -> Application:
    """What Ray Serve runs: `medrl serve`, or `serve run serve.app:build model=DIR`."""
    return _service(config, "champion")


def build_candidate(config: ServeConfig) -> Application:
    """The newest version, beside the champion: `medrl serve` with `candidate`."""
    return _service(config.model_copy(update={"replicas": 1}), "candidate")


def _service(config: ServeConfig, alias: str) -> Application:
    conductor = Conductor.bind(config.registry, alias, config.swap, ChatService.name) if config.registry else None
    escalation = config.manners.escalation
    rules = load_rules(escalation.rules) if escalation else None
    return ChatService.options(
        num_replicas=config.replicas,
        max_constructor_retry_count=1,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    ).bind(config, load_keys(config), rules, secrets.token_bytes(32), conductor)
