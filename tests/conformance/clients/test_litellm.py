"""LiteLLM, which many gateways are built on."""

from __future__ import annotations

import litellm
import pytest

from tests.conformance.service import Service


def ask(service: Service, key: str = "", **options):
    return litellm.completion(
        model=f"openai/{service.model}", api_base=f"{service.url}/v1", api_key=key or service.key, temperature=0,
        messages=[{"role": "user", "content": "What helps against a cold?"}], max_tokens=12, num_retries=0, **options)


def test_an_answer_and_its_stream_are_the_same(service: Service) -> None:
    answer = ask(service)
    assert 0 < answer.usage.completion_tokens <= 12
    parts = [part.choices[0].delta.content or "" for part in ask(service, stream=True)]
    assert "".join(parts) == answer.choices[0].message.content


def test_errors_are_its_own(service: Service) -> None:
    with pytest.raises(litellm.AuthenticationError):
        ask(service, key="wrong")
    with pytest.raises(litellm.BadRequestError):
        ask(service, top_p=5)
