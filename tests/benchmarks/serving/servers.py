"""The two servers, side by side, on one random model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.services import running_service
from tests.tiny import save_tokenizer, tiny_config

SETTINGS = {"dtype": "float32", "max_model_len": 256, "kv_cache_gib": 0.25}
START_SECONDS = 300


def save_model(path: Path, layers: int) -> Path:
    """A random Qwen3 of 13 million parameters a layer, with a tokenizer."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(0)
    config = tiny_config(
        save_tokenizer(path), hidden_size=1024, intermediate_size=3072, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=8, head_dim=64, max_position_embeddings=256)
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


@contextmanager
def both_servers(model: Path, overrides: Sequence[str]) -> Iterator[dict[str, str]]:
    """Their URLs. `overrides`: more settings of `medrl serve`."""
    settings = [*(f"{key}={value}" for key, value in SETTINGS.items()), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with running_service(["serve", str(model), *settings], environment) as medrl, plain(model, environment) as vllm:
        yield {"medrl": medrl.url, "vllm": vllm}


@contextmanager
def plain(model: Path, environment: dict[str, str]) -> Iterator[str]:
    """`vllm serve` with the arguments and environment that `medrl serve` gives its engine."""
    from medrl.config.serving import ServeConfig
    from serve.launch import set_environment, vllm_words

    set_environment(on_cpu=True)
    words = vllm_words(ServeConfig(model=str(model), **SETTINGS), str(model))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *words, "--port", str(port),
         "--uvicorn-log-level", "error"],
        env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        _wait(process, url)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError("vllm serve did not start")
