"""A language model behind vLLM's own OpenAI app, in a Ray Serve deployment (`medrl serve`)."""

# No `annotations` from __future__: Ray Serve reads the class of build's parameter.

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from medrl.audit.writer import open_writer
from medrl.config.keys import KeyConfig, load_keys
from medrl.config.serving import ServeConfig
from serve.access_log import AccessLog, request_logger
from serve.admission import Admission
from serve.auth import Authorization
from serve.body_limit import BodyLimit
from serve.context import RequestContexts
from serve.engine import WatchedEngine
from serve.errors import ErrorScrub
from serve.escalation import EscalationRules, load_rules
from serve.launch import set_environment, start_engine, vllm_arguments
from serve.ledger import LedgerService, RemoteLedger
from serve.manners import Manners
from serve.metrics import Metrics, ServiceMetrics
from serve.quotas import Quotas, quotas_of
from serve.readiness import Doorway
from serve.request_ids import RequestIds
from serve.routes import OwnRoutes, own_routes
from serve.swap.compatible import checked_path
from serve.swap.conductor import Conductor
from serve.swap.follower import Follower
from serve.swap.gate import Gate, Gated
from serve.swap.link import Link
from serve.swap.weights import Weights
from serve.versions import unregistered

SPARE = 100  # requests at once of which admission takes no notice: health, models, refusals on their way out
HEALTH_SECONDS = 2.0  # Ray Serve replaces a replica after three failures


@serve.deployment
@serve.ingress()
class ChatService:
    """One replica: an engine, and vLLM's app with all its routes around it."""

    async def __init__(
        self, config: ServeConfig, keys: list[KeyConfig], rules: EscalationRules | None, secret: bytes,
        ledger: DeploymentHandle | None,
        conductor: DeploymentHandle | None,
    ) -> None:
        set_environment(on_cpu=not torch.accelerator.is_available())
        from vllm.engine.protocol import EngineClient
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        self.config = config
        self.keys = keys
        self.rules = rules
        self.ledger = ledger
        self.ids = RequestIds(secret)
        self.conductor = conductor
        self.gate = Gate()
        self.following: asyncio.Task[None] | None = None
        link = Link(conductor) if conductor else None
        target = await link.first_target() if link else None
        model = await asyncio.to_thread(checked_path, target) if target else str(config.model)
        arguments = vllm_arguments(config, model)
        self.resources = AsyncExitStack()
        writer = None
        if config.audit:
            writer = open_writer(config.audit)
            self.resources.callback(writer.close, config.audit.timeout)  # behind the engine, when no answer runs
        self.client = start_engine(arguments)
        self.resources.callback(self.client.shutdown)
        engine = WatchedEngine(self.client, writer)
        tasks = await engine.get_supported_tasks()
        self.openai = build_app(arguments, tasks, engine.model_config)
        await init_app_state(cast(EngineClient, engine), self.openai.state, arguments, tasks)
        self.openai.state.server = SimpleNamespace()  # vLLM's own server, which it tells to end when the engine dies
        weights = Weights(engine)
        version = target.version if target else await asyncio.to_thread(unregistered, Path(model))
        probe = await weights.name(version)
        if link and target:
            follower = Follower(link.next_order, self.gate, weights, config.swap, target, probe)
            self.following = asyncio.create_task(follower.run())
            await self.gate.opened()
        else:
            self.gate.open(version)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """vLLM's app inside what every request passes, the innermost first."""
        app: ASGIApp = Gated(self.openai, self.gate)
        app = OwnRoutes(app, own_routes(self.config, self.ids, self.gate, self.conductor))
        app = Manners(app, self.config.manners, self.rules, self.config.name)
        app = Admission(app, self.config.admission)
        if self.ledger:
            app = Quotas(app, quotas_of(self.keys), self.config.quotas, RemoteLedger(self.ledger))
        app = BodyLimit(app, self.config.max_body_mib)
        app = Authorization(app, self.keys)
        app = self.doorway = Doorway(app, lambda: not self.client.errored)
        app = ErrorScrub(app)
        app = Metrics(app, ServiceMetrics())
        app = AccessLog(app, request_logger(self.config.logs))
        return RequestContexts(app, self.ids)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica of which this raises."""
        await self.client.check_health()
        if self.gate.broken or (self.following and self.following.done()):
            raise RuntimeError("the version to be served could not be loaded")

    async def drain(self, seconds: float) -> None:
        """Before the service ends: refuse what is new, finish what runs."""
        await self.doorway.drain(seconds)

    async def __del__(self) -> None:
        await self.resources.aclose()


def build(config: ServeConfig) -> Application:
    """What Ray Serve runs: `medrl serve`, or `serve run serve.app:build model=DIR`."""
    return _service(config, "champion")


def build_candidate(config: ServeConfig) -> Application:
    """The newest version, beside the champion."""
    return _service(config.model_copy(update={"replicas": 1}), "candidate")


def _service(config: ServeConfig, alias: str) -> Application:
    conductor = Conductor.bind(config.registry, alias, config.swap, ChatService.name) if config.registry else None
    escalation = config.manners.escalation
    rules = load_rules(escalation.rules) if escalation else None
    keys, admission = load_keys(config), config.admission
    ledger = LedgerService.bind() if config.quotas or quotas_of(keys) else None
    return ChatService.options(
        num_replicas=config.replicas,
        # Ray's own limits are wider than ours: those who are too many get our 503, and other routes still answer.
        max_ongoing_requests=2 * (admission.max_running + admission.max_queued) + SPARE,
        max_queued_requests=-1,
        max_constructor_retry_count=1,
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=config.drain_seconds,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    ).bind(config, keys, rules, secrets.token_bytes(32), ledger, conductor)
