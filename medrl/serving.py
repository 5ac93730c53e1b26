"""`medrl serve` and `serve-reward`: Ray Serve runs what stands at an import path; medrl never imports `serve`."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from medrl.audit.key import load_key
from medrl.config.common import ModelConfig
from medrl.config.keys import load_keys
from medrl.config.serving import ServeConfig, ServeRewardConfig, ServiceConfig
from medrl.data.chat import check_tokenizer
from medrl.errors import ConfigError, WorkerError
from medrl.models.export import load_calibration
from medrl.models.loading import check_model_dir, load_tokenizer
from medrl.registry.store import Registry
from medrl.workers.cluster import connect
from medrl.workers.interrupt import Interrupted, Interrupts

CHAT_APP, CANDIDATE_APP, REWARD_APP = "serve.app:build", "serve.app:build_candidate", "serve.reward:build"
APP_NAME = "medrl"
DRAIN_MARGIN = 5.0  # seconds beyond drain_seconds until replicas that do not say that they are done are ended
CPUS_OF_SERVE = 1.0  # Ray Serve's own controller and proxy
Apps = Mapping[str, tuple[str, str]]  # name → (path it is served at, import path of what builds it)


def run_serve(config: ServeConfig) -> None:
    """The OpenAI API of a language model. Raises as `run_service` does, and ConfigError without the audit's key."""
    if config.audit:
        load_key(config.audit)
    apps = {APP_NAME: ("/", CHAT_APP)}
    if config.candidate:
        apps[f"{APP_NAME}-candidate"] = ("/candidate", CANDIDATE_APP)
    run_service(config, first_model(config), apps, f"model {config.name}", "v1")


def run_serve_reward(config: ServeRewardConfig) -> None:
    """The scores of a reward model. Raises as `run_service` does."""
    kind = "calibrated" if load_calibration(config.model) else "raw: the model has no calibration.json"
    run_service(config, config.model, {APP_NAME: ("/", REWARD_APP)}, f"scores ({kind})", "score")


def first_model(config: ServeConfig) -> str:
    """The directory that is served at the start. RegistryError when there is no champion, or not as registered."""
    return str(Registry(config.registry).resolve("champion").path) if config.registry else str(config.model)


def run_service(config: ServiceConfig, model: str, apps: Apps, what: str, path: str) -> None:
    """Serve `apps` until SIGINT or SIGTERM; requests that run then are finished. Says `what` is at which `path`.

    `model`: directory of the (first) model. Raises ConfigError or ModelError before anything starts, WorkerError when
    Ray Serve cannot start it.
    """
    check_model_dir(model)
    check_tokenizer(load_tokenizer(ModelConfig(path=model)))  # its template is the one it was trained with
    load_keys(config)
    check_port(config.host, config.port)
    _set_environment()
    replicas = config.replicas + len(apps) - 1
    with (
        connect(config.ray, replicas * config.cpus_per_replica + CPUS_OF_SERVE),
        Interrupts().installed(),  # in this order: Ray installs signal handlers of its own
    ):
        try:
            _serve(config, apps, f"{what} at http://{config.host}:{config.port}/{path}")
        except Interrupted as interrupt:
            raise SystemExit(interrupt.exit_code) from None


def _set_environment() -> None:
    """What all processes of a local cluster inherit: no file of theirs may hold what was asked."""
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve.proxy:middlewares")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(config: ServiceConfig, apps: Apps, ready: str) -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            handles = [serve.run(import_path(app)(config), name=name, route_prefix=prefix)
                       for name, (prefix, app) in apps.items()]
            print(ready, flush=True)
            try:
                threading.Event().wait()
            finally:
                _drain(handles, config.drain_seconds)
        except RuntimeError as error:
            raise WorkerError("the model did not start", got=_replica_error() or str(error)) from None
        finally:
            for name in apps:
                serve.delete(name)
    except (RayServeException, RuntimeError, TimeoutError) as error:
        raise WorkerError("Ray Serve did not start", got=str(error)[:500]) from None


def _drain(handles: Sequence[Any], seconds: float) -> None:
    """Every replica refuses new requests and finishes those that run; one that is gone has nothing to finish."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    for answers in [handle.broadcast("drain", seconds) for handle in handles]:
        with suppress(RayError, RayServeException, TimeoutError):
            answers.results(timeout_s=seconds + DRAIN_MARGIN)


def _replica_error() -> str:
    """The end of the traceback that Ray Serve keeps of a replica that failed."""
    from ray import serve

    applications = serve.status().applications.values()
    messages = [deployment.message for application in applications for deployment in application.deployments.values()]
    return "\n".join(messages)[-600:]


def import_path(path: str) -> Any:
    """What stands at `module:name`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def check_port(host: str, port: int) -> None:
    """ConfigError when nothing can listen there."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}", got=error.strerror or str(error), remedy="give another --port or --host"
        ) from None
