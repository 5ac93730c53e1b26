"""A language model behind vLLM's own OpenAI app, in a Ray Serve deployment (`medrl serve`)."""

# No `annotations` from __future__: Ray Serve reads the class of build's parameter.

import os
import secrets
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import torch
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from medrl.audit.writer import open_writer
from medrl.config.keys import KeyConfig, load_keys
from medrl.config.serving import ServeConfig
from serve import quiet_logs
from serve.access_log import AccessLog, request_logger
from serve.admission import Admission
from serve.auth import Authorization
from serve.body_limit import BodyLimit
from serve.context import RequestContexts
from serve.engine import WatchedEngine
from serve.errors import ErrorScrub
from serve.ledger import LedgerService, RemoteLedger
from serve.quotas import Quotas, quotas_of
from serve.request_ids import RequestIds
from serve.routes import OwnRoutes
from serve.versions import unregistered

GIB = 2**30
SPARE = 100  # requests at once of which admission takes no notice: health, models, refusals on their way out


@serve.deployment
@serve.ingress()
class ChatService:
    """One replica: an engine, and vLLM's app with all its routes around it."""

    async def __init__(
        self, config: ServeConfig, keys: list[KeyConfig], secret: bytes, ledger: DeploymentHandle | None
    ) -> None:
        _set_environment(on_cpu=not torch.accelerator.is_available())
        from vllm.engine.protocol import EngineClient
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.entrypoints.launchers.app import build_app

        arguments = vllm_arguments(config)
        self.config = config
        self.keys = keys
        self.ledger = ledger
        self.ids = RequestIds(secret)
        self.resources = AsyncExitStack()
        writer = None
        if config.audit:
            writer = open_writer(config.audit)
            self.resources.callback(writer.close, config.audit.timeout)  # behind the engine, when no answer runs
        client = await self.resources.enter_async_context(build_async_engine_client(arguments))
        engine = WatchedEngine(client, writer)
        await engine.update_weight_version(unregistered(Path(config.model)).label)
        tasks = await engine.get_supported_tasks()
        self.openai = build_app(arguments, tasks, engine.model_config)
        await init_app_state(cast(EngineClient, engine), self.openai.state, arguments, tasks)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """vLLM's app inside what every request passes, the innermost first."""
        app: ASGIApp = OwnRoutes(self.openai, self.config, self.ids)
        app = Admission(app, self.config.admission)
        if self.ledger:
            app = Quotas(app, quotas_of(self.keys), self.config.quotas, RemoteLedger(self.ledger))
        app = BodyLimit(app, self.config.max_body_mib)
        app = Authorization(app, self.keys)
        app = ErrorScrub(app)
        app = AccessLog(app, request_logger(self.config.logs))
        return RequestContexts(app, self.ids)

    async def __del__(self) -> None:
        await self.resources.aclose()


def vllm_arguments(config: ServeConfig) -> Namespace:
    """The arguments of `vllm serve` that say what the config says."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    words = [
        "--model", config.model, "--served-model-name", config.name, "--dtype", config.dtype,
        "--disable-fastapi-docs", "--disable-log-stats", "--load-format", "safetensors",
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
    quiet_logs.configure()
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["DO_NOT_TRACK"] = "1"
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # replicas share the cores
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else helpers call a C++ compiler, for tens of seconds


def build(config: ServeConfig) -> Application:
    """What Ray Serve runs: `medrl serve`, or `serve run serve.app:build model=DIR`."""
    keys, admission = load_keys(config), config.admission
    ledger = LedgerService.bind() if config.quotas or quotas_of(keys) else None
    return ChatService.options(
        num_replicas=config.replicas,
        # Ray's own limits are wider than ours: those who are too many get our 503, and other routes still answer.
        max_ongoing_requests=2 * (admission.max_running + admission.max_queued) + SPARE,
        max_queued_requests=-1,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
    ).bind(config, keys, secrets.token_bytes(32), ledger)
