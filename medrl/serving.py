"""`medrl serve` and `serve-reward`: Ray Serve runs what stands at an import path; medrl never imports `serve`."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import socket
import threading
from typing import Any

from medrl.audit.key import load_key
from medrl.config.common import ModelConfig
from medrl.config.keys import load_keys
from medrl.config.serving import ServeConfig, ServeRewardConfig, ServiceConfig
from medrl.data.chat import check_tokenizer
from medrl.errors import ConfigError, WorkerError
from medrl.models.export import load_calibration
from medrl.models.loading import check_model_dir, load_tokenizer
from medrl.workers.cluster import connect
from medrl.workers.interrupt import Interrupted, Interrupts

CHAT_APP, REWARD_APP = "serve.app:build", "serve.reward:build"
APP_NAME = "medrl"
CPUS_OF_SERVE = 1.0  # Ray Serve's own controller and proxy


def run_serve(config: ServeConfig) -> None:
    """The OpenAI API of a language model. Raises as `run_service` does, and ConfigError without the audit's key."""
    if config.audit:
        load_key(config.audit)
    run_service(config, CHAT_APP, f"model {config.name}", "v1")


def run_serve_reward(config: ServeRewardConfig) -> None:
    """The scores of a reward model. Raises as `run_service` does."""
    kind = "calibrated" if load_calibration(config.model) else "raw: the model has no calibration.json"
    run_service(config, REWARD_APP, f"scores ({kind})", "score")


def run_service(config: ServiceConfig, app: str, what: str, path: str) -> None:
    """Serve `app` until SIGINT or SIGTERM; requests that run then are finished. Says `what` is at which `path`.

    Raises ConfigError or ModelError before anything starts, WorkerError when Ray Serve cannot start it.
    """
    check_model_dir(config.model)
    check_tokenizer(load_tokenizer(ModelConfig(path=config.model)))  # its template is the one it was trained with
    load_keys(config)
    check_port(config.host, config.port)
    _set_environment()
    cpus = config.replicas * config.cpus_per_replica + CPUS_OF_SERVE
    with connect(config.ray, cpus), Interrupts().installed():  # in this order: Ray installs signal handlers of its own
        try:
            _serve(config, app, f"{what} at http://{config.host}:{config.port}/{path}")
        except Interrupted as interrupt:
            raise SystemExit(interrupt.exit_code) from None


def _set_environment() -> None:
    """What all processes of a local cluster inherit: no file of theirs may hold what was asked."""
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve.proxy:middlewares")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(config: ServiceConfig, app: str, ready: str) -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            serve.run(import_path(app)(config), name=APP_NAME)
            print(ready, flush=True)
            threading.Event().wait()
        except RuntimeError as error:
            raise WorkerError("the model did not start", got=_replica_error() or str(error)) from None
        finally:
            serve.delete(APP_NAME)  # waits for running requests; the end of the local cluster would cut them off
    except (RayServeException, RuntimeError, TimeoutError) as error:
        raise WorkerError("Ray Serve did not start", got=str(error)[:500]) from None


def _replica_error() -> str:
    """The end of the traceback that Ray Serve keeps of a replica that failed."""
    from ray import serve

    application = serve.status().applications.get(APP_NAME)
    messages = [deployment.message for deployment in application.deployments.values()] if application else []
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
