"""`medrl serve` as a user starts it: a tiny model on the real Ray Serve and vLLM, asked by OpenAI's own client."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.services import Running, running_service

pytestmark = pytest.mark.vllm
VARIABLE, KEY = "MEDRL_TEST_CHAT_KEY", "tiny-key"
MESSAGES = [{"role": "user", "content": "感冒了怎么办?"}]
SETTINGS = ["dtype=float32", "kv_cache_gib=0.25", "max_model_len=128"]


@pytest.fixture(scope="module")
def service(tiny_run: Path) -> Iterator[Running]:
    command = ["serve", str(tiny_run / "policy"), f"--api-key-env={VARIABLE}", *SETTINGS]
    with running_service(command, os.environ | {VARIABLE: KEY}) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=120)


def test_the_model_is_listed_and_healthy(service: Running, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["medrl"]
    assert httpx.get(f"{service.url}/health").status_code == 200


def test_chat_streamed_or_not_says_the_same(client: openai.OpenAI) -> None:
    options = {"model": "medrl", "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**options)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert whole.usage and 0 < whole.usage.completion_tokens <= 8 and whole.choices[0].message.content
    chunks = client.chat.completions.create(**options, stream=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content


def test_it_is_the_model_that_was_given(client: openai.OpenAI, tiny_run: Path) -> None:
    """Greedy tokens equal those of transformers' own generation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "policy")
    model = AutoModelForCausalLM.from_pretrained(tiny_run / "policy", dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode("What helps?")])
    expected = model.generate(ids, do_sample=False, max_new_tokens=8, eos_token_id=-1)[0, ids.shape[1]:]
    answer = client.completions.create(
        model="medrl", prompt=ids[0].tolist(), max_tokens=8, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].text == tokenizer.decode(expected)


def test_mistakes_are_typed_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=MESSAGES)  # pyright: ignore[reportArgumentType]
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="medrl", prompt="x", max_tokens=9999)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_sigterm_ends_it_with_its_engine(service: Running) -> None:
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(120) == 128 + signal.SIGTERM
    assert not subprocess.run(["pgrep", "-s", str(service.process.pid)], capture_output=True, text=True).stdout
