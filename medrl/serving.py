"""`medrl serve-reward`: Ray Serve runs what stands at an import path; medrl itself never imports `serve`."""

from __future__ import annotations

import importlib
import logging
import socket
import threading
from typing import Any

from medrl.config.serving import ServeRewardConfig
from medrl.environment import read_secret
from medrl.errors import ConfigError, WorkerError
from medrl.models.export import load_calibration
from medrl.models.loading import check_model_dir
from medrl.workers.cluster import connect
from medrl.workers.interrupt import Interrupted, Interrupts

REWARD_APP = "serve.reward:build"
CPUS_OF_SERVE = 1.0  # Ray Serve's own controller and proxy


def run_serve_reward(config: ServeRewardConfig) -> None:
    """Serve until SIGINT or SIGTERM; requests that run then are finished.

    Raises ConfigError or ModelError before anything starts, WorkerError when Ray Serve cannot start it.
    """
    check_model_dir(config.model)
    calibrated = load_calibration(config.model) is not None
    if config.api_key_env:
        read_secret(config.api_key_env, "medrl serve-reward")
    check_port(config.host, config.port)
    cpus = config.replicas * config.cpus_per_replica + CPUS_OF_SERVE
    with connect(config.ray, cpus), Interrupts().installed():  # in this order: Ray installs signal handlers of its own
        from ray import serve

        try:
            _start(config)
            kind = "calibrated" if calibrated else "raw: the model has no calibration.json"
            print(f"scores ({kind}) at http://{config.host}:{config.port}/score", flush=True)
            threading.Event().wait()
        except Interrupted as interrupt:
            raise SystemExit(interrupt.exit_code) from None
        finally:
            serve.shutdown()


def _start(config: ServeRewardConfig) -> None:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
        serve.run(import_path(REWARD_APP)(config), name="reward")
    except (RayServeException, RuntimeError, TimeoutError) as error:
        raise WorkerError("Ray Serve did not start", got=str(error)[:500]) from None


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
