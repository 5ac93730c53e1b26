"""What OpenAI's own client can ask for and must be told."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.conformance.service import Service

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
ASK: dict[str, Any] = {"model": "medrl", "messages": [{"role": "user", "content": "感冒了怎么办?"}]}
GREEDY = ASK | {"temperature": 0, "max_tokens": 12}
TRIAGE = {
    "type": "object", "additionalProperties": False, "required": ["urgent", "department"],
    "properties": {"urgent": {"type": "boolean"}, "department": {"enum": ["呼吸科", "cardiology"]}},
}


def text(answer: Any) -> str:
    return answer.choices[0].message.content


def test_a_stream_with_usage_is_the_same_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)
    *parts, last = client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True})
    assert "".join(part.choices[0].delta.content or "" for part in parts) == text(whole)
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert not last.choices and last.usage == whole.usage and whole.usage.completion_tokens <= 12


def test_two_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, n=2, max_tokens=8, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content


def test_log_probs(client: openai.OpenAI) -> None:
    tokens = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert tokens
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert token.logprob == max(top.logprob for top in token.top_logprobs)


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        return text(client.chat.completions.create(**ASK, seed=seed, temperature=1, max_tokens=12))

    assert ask(1) == ask(1) != ask(2)


def test_a_stop_string_ends_an_answer_before_it(client: openai.OpenAI) -> None:
    options = {"model": "medrl", "prompt": "What helps?", "temperature": 1, "seed": 1, "max_tokens": 40}
    whole = client.completions.create(**options).choices[0].text
    stop = next(char for char in whole[4:] if char.isascii() and char.isalnum())
    stopped = client.completions.create(**options, stop=stop).choices[0]
    assert stopped.text == whole[: whole.index(stop)] and stopped.finish_reason == "stop"


def test_echo_with_log_probs_scores_a_prompt(client: openai.OpenAI) -> None:
    prompt = "What helps against a cold?"
    scored = client.completions.create(model="medrl", prompt=prompt, max_tokens=1, echo=True, logprobs=1).choices[0]
    first, *rest = scored.logprobs.token_logprobs
    assert scored.text.startswith(prompt) and first is None and all(value < 0 for value in rest)
    assert "".join(scored.logprobs.tokens).startswith(prompt)


def test_an_answer_in_a_json_schema(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "triage", "strict": True, "schema": TRIAGE}}
    answer = client.chat.completions.create(**ASK, temperature=0, max_tokens=80, response_format=form)
    found = json.loads(text(answer))
    assert set(found) == {"urgent", "department"} and isinstance(found["urgent"], bool)
    assert found["department"] in TRIAGE["properties"]["department"]["enum"]


def test_a_named_tool_is_called(client: openai.OpenAI) -> None:
    """As far as random weights get: the call is forced, they write blanks where its arguments may have some."""
    tool = {"type": "function", "function": {"name": "triage", "strict": True, "parameters": TRIAGE}}
    choice = {"type": "function", "function": {"name": "triage"}}
    answer = client.chat.completions.create(**ASK, temperature=0, max_tokens=80, tools=[tool], tool_choice=choice)
    assert text(answer).startswith('<tool_call>{"name": "triage", "arguments": {')


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["medrl"]


@pytest.mark.parametrize(("change", "error"), [
    ({"max_tokens": 10**6}, openai.BadRequestError), ({"temperature": -1}, openai.BadRequestError),
    ({"messages": []}, openai.BadRequestError), ({"model": "other"}, openai.NotFoundError),
])
def test_mistakes_are_typed_exceptions(client: openai.OpenAI, change: dict, error: type[openai.APIStatusError]) -> None:
    with pytest.raises(error) as raised:
        client.chat.completions.create(**ASK | change)
    assert isinstance(raised.value.body, dict) and raised.value.body["message"] and raised.value.request_id


def test_a_wrong_key(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_too_many_requests(client: openai.OpenAI, service: Service) -> None:
    limited = client.with_options(api_key=service.limited_key)
    with pytest.raises(openai.RateLimitError) as raised:
        for _ in range(3):
            limited.chat.completions.create(**ASK, max_tokens=1)
    assert int(raised.value.response.headers["retry-after"]) > 0
