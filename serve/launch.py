"""vLLM as a config describes it: its environment, its arguments, its engine."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from medrl.config.serving import ServeConfig
from serve import quiet_logs

GIB = 2**30


def set_environment(on_cpu: bool) -> None:
    """What vLLM reads when it is first imported."""
    quiet_logs.configure()
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["DO_NOT_TRACK"] = "1"
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # replicas share the cores
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else helpers call a C++ compiler, for tens of seconds


def vllm_words(config: ServeConfig, model: str) -> list[str]:
    """The arguments of `vllm serve` that say what the config says, for the model in a directory."""
    from vllm.platforms import current_platform

    words = [
        "--model", model, "--served-model-name", config.name, "--dtype", config.dtype,
        "--disable-fastapi-docs", "--load-format", "safetensors",
        "--worker-extension-cls", "serve.swap.worker.Loading",
        # A weak model that may would write blanks between two words of JSON until its tokens are spent.
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]
    if config.tool_parser:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", config.tool_parser]
    if config.max_model_len:
        words += ["--max-model-len", str(config.max_model_len)]
    if current_platform.is_cpu():
        words += ["--kv-cache-memory-bytes", str(int(config.kv_cache_gib * GIB)), "--enforce-eager"]
    return words


def vllm_arguments(config: ServeConfig, model: str) -> Namespace:
    """The same as `vllm serve` parses them."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments: Any = make_arg_parser(FlexibleArgumentParser()).parse_args(vllm_words(config, model))
    validate_parsed_serve_args(arguments)
    return arguments


def start_engine(arguments: Namespace) -> Any:
    """vLLM's AsyncLLM, with its metrics where Ray collects them from all replicas."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    return AsyncLLM.from_engine_args(
        AsyncEngineArgs.from_cli_args(arguments), usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[RayPrometheusStatLogger],
    )
