"""Medical manners around an app: headers, the system prompt, and a way out in emergencies."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from medrl.config.base import build_config
from medrl.config.manners import INTENDED_USE, MannersConfig
from medrl.errors import ConfigError
from serve.context import CURRENT, RequestContexts
from serve.escalation import load_rules
from serve.manners import Manners
from tests.serve.clients import ask

CHAT, COMPLETIONS, RESPONSES, CLAUDE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
HARM, HARMLESS = {"role": "user", "content": "我想自杀"}, {"role": "user", "content": "感冒了怎么办？"}
THEIRS = {"role": "system", "content": "theirs"}
OURS = {"role": "system", "content": "ours"}


async def _echo(request: Request) -> Response:
    """What came, as bytes, and the length that was announced."""
    body = await request.body()
    return Response(body, headers={"x-length": request.headers.get("content-length", ""),
                                   "x-context": CURRENT.get().escalation})


async def _events(_request: Request) -> Response:
    async def slowly():
        for part in ("one", "two"):
            yield part
            await asyncio.sleep(0.05)

    return StreamingResponse(slowly())


def around(**config: Any) -> RequestContexts:
    routes = [Route(path, _echo, methods=["POST"])
              for path in (CHAT, COMPLETIONS, RESPONSES, CLAUDE, "/v1/chat/completions/batch", "/v1/feedback")]
    app = Starlette(routes=[*routes, Route("/v1/models", lambda _: JSONResponse({})),
                            Route("/invocations", _events, methods=["POST"])])
    manners = build_config(MannersConfig, config)
    return RequestContexts(Manners(app, manners, load_rules(None) if manners.escalation else None, "tiny"))


def post(body: Any, path: str = CHAT, **config: Any) -> httpx.Response:
    return ask(around(**config), "POST", path, content=body if isinstance(body, bytes) else json.dumps(body))


def prompted(body: dict[str, Any], path: str, policy: str) -> dict[str, Any]:
    answer = post(body, path, system_prompt={"policy": policy, "text": "ours"})
    assert answer.headers["x-length"] == str(len(answer.content))
    return answer.json()


def test_the_intended_use_is_in_the_headers_alone() -> None:
    body = json.dumps({"messages": [HARMLESS]}).encode()
    said = post(body)
    assert said.headers["x-medrl-intended-use"] == INTENDED_USE and said.content == body
    assert "x-medrl-escalation" not in said.headers
    models = ask(around(intended_use="Trial 7 only."), "GET", "/v1/models")
    assert models.headers["x-medrl-intended-use"] == "Trial 7 only."


@pytest.mark.parametrize("statement", ["", " x", "Nur für Ärzte", "a\r\nset-cookie: b", "x" * 501])
def test_a_statement_that_is_no_header(statement: str) -> None:
    with pytest.raises(ConfigError, match="intended_use"):
        build_config(MannersConfig, {"intended_use": statement})


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff\xff", b"[1]", b'"x"', b"[" * 50_000, b'{"messages": 7}',
                                  b'{"messages": [7, null, {"content": 3}, {"role": ["user"], "content": [1, {}]}]}',
                                  b'{"prompt": [1, 2]}', b'{"messages": [[1], []], "input": [[]], "n": "x"}', b"{}"])
def test_what_is_no_conversation_goes_on_as_it_came(body: bytes) -> None:
    for path in (CHAT, COMPLETIONS):
        assert post(body, path, escalation={"action": "answer"}).content == body
    for policy in ("default", "enforced"):
        if not body.startswith(b'{"messages": ['):
            assert post(body, system_prompt={"policy": policy, "text": "ours"}).content == body


def test_a_deep_body_is_left_to_the_app_or_passed_on() -> None:
    for depth in (300, 900, 990, 5_000):
        body = b'{"messages": [' + b'{"a": ' * depth + b"1" + b"}" * depth + b"]}"
        assert post(body, system_prompt={"policy": "default", "text": "ours"}).status_code == 200


@pytest.mark.parametrize(("policy", "path", "body", "expected"), [
    ("default", CHAT, {"messages": [HARMLESS], "seed": 1}, {"messages": [OURS, HARMLESS], "seed": 1}),
    ("default", CHAT, {"messages": [THEIRS, HARMLESS]}, {"messages": [THEIRS, HARMLESS]}),
    ("enforced", CHAT, {"messages": [HARMLESS]}, {"messages": [OURS, HARMLESS]}),
    ("enforced", CHAT, {"messages": [HARMLESS, THEIRS, {"role": "developer", "content": "x"}]},
     {"messages": [OURS, HARMLESS]}),
    ("enforced", "/v1/chat/completions/batch", {"messages": [[HARMLESS], [THEIRS, HARMLESS]]},
     {"messages": [[OURS, HARMLESS], [OURS, HARMLESS]]}),
    ("default", "/v1/chat/completions/batch", {"messages": [[HARMLESS], [THEIRS, HARMLESS]]},
     {"messages": [[OURS, HARMLESS], [THEIRS, HARMLESS]]}),
    ("default", CLAUDE, {"messages": [HARMLESS]}, {"messages": [HARMLESS], "system": "ours"}),
    ("default", CLAUDE, {"messages": [HARMLESS], "system": "x"}, {"messages": [HARMLESS], "system": "x"}),
    ("enforced", CLAUDE, {"messages": [HARMLESS], "system": "x"}, {"messages": [HARMLESS], "system": "ours"}),
    ("default", RESPONSES, {"input": "x"}, {"input": "x", "instructions": "ours"}),
    ("default", RESPONSES, {"input": [THEIRS, HARMLESS]}, {"input": [THEIRS, HARMLESS]}),
    ("enforced", RESPONSES, {"input": [THEIRS, HARMLESS], "instructions": "x"},
     {"input": [HARMLESS], "instructions": "ours"}),
    ("enforced", COMPLETIONS, {"prompt": "x"}, {"prompt": "x"}),
    ("enforced", "/v1/feedback", {"messages": [HARMLESS]}, {"messages": [HARMLESS]}),
])
def test_the_system_prompt(policy: str, path: str, body: dict, expected: dict) -> None:
    assert prompted(body, path, policy) == expected


@pytest.mark.parametrize("wrong", [{"policy": "default"}, {"text": "x"}, {"policy": "maybe", "text": "x"}])
def test_a_policy_that_says_nothing(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="system_prompt"):
        build_config(MannersConfig, {"system_prompt": wrong})


@pytest.mark.parametrize(("path", "body"), [
    (CHAT, {"messages": [HARM]}),
    (CHAT, {"messages": [HARM, {"role": "assistant", "content": "?"}, {"role": "user", "content": "怎么办"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "I want to die"}]}]}),
    ("/v1/chat/completions/batch", {"messages": [[HARMLESS], [HARM]]}),
    (COMPLETIONS, {"prompt": "我想自杀"}), (COMPLETIONS, {"prompt": ["x", "我想自杀"]}),
    (RESPONSES, {"input": "我想自杀"}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "我想自杀"}]}]}),
    (CLAUDE, {"messages": [HARM]}),
])
def test_a_sign_is_named_in_a_header_and_noted_for_the_metrics(path: str, body: dict) -> None:
    said = post(body, path)
    assert said.headers["x-medrl-escalation"] == "self_harm" and said.json() == body
    assert said.headers["x-context"] == "self_harm"


@pytest.mark.parametrize(("path", "body"), [
    (CHAT, {"messages": [HARM, *[HARMLESS] * 2]}),  # three turns ago
    (CHAT, {"messages": [{"role": "system", "content": "我想自杀"}, {"role": "assistant", "content": "想自杀"}]}),
    ("/v1/feedback", {"messages": [HARM]}),
])
def test_what_is_no_sign_of_the_users(path: str, body: dict) -> None:
    assert "x-medrl-escalation" not in post(body, path).headers


def test_escalation_can_be_off() -> None:
    assert "x-medrl-escalation" not in post({"messages": [HARM]}, escalation=None).headers


def test_openais_client_reads_the_fixed_answer() -> None:
    async def talk() -> None:
        http: Any = httpx.AsyncClient(transport=httpx.ASGITransport(around(escalation={"action": "answer"})))
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="k", http_client=http)
        messages: Any = [HARM]
        whole = await client.chat.completions.create(model="tiny", messages=messages)
        text = whole.choices[0].message.content or ""
        assert "12356" in text and whole.choices[0].finish_reason == "stop" and whole.model == "tiny"
        chunks = [c async for c in await client.chat.completions.create(
            model="tiny", messages=messages, stream=True, stream_options={"include_usage": True})]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
        assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage and not chunks[-1].choices
        plain = await client.completions.create(model="tiny", prompt="I have chest pain")
        assert "911" in plain.choices[0].text
        parts = [c async for c in await client.completions.create(model="tiny", prompt="chest pain", stream=True)]
        assert "".join(c.choices[0].text for c in parts) == plain.choices[0].text

    asyncio.run(talk())


@pytest.mark.parametrize(("path", "body"), [
    (CHAT, {"messages": [HARM], "n": 2}), (COMPLETIONS, {"prompt": ["我想自杀"]}), (RESPONSES, {"input": "我想自杀"}),
    ("/v1/chat/completions/batch", {"messages": [[HARM]]}), (CLAUDE, {"messages": [HARM]}),
])
def test_where_one_answer_is_not_wanted_the_header_stays(path: str, body: dict) -> None:
    said = post(body, path, escalation={"action": "answer"})
    assert said.json() == body and said.headers["x-medrl-escalation"] == "self_harm"


def test_a_stream_is_not_held_back_and_the_client_can_be_seen_to_go() -> None:
    async def listen() -> tuple[list[bytes], list[str]]:
        sent, order = asyncio.Queue(), []
        app = around()
        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": [], "query_string": b""}
        incoming = iter([{"type": "http.request", "body": b'{"a"', "more_body": True},
                         {"type": "http.request", "body": b": 1}"}])

        async def receive() -> dict[str, Any]:
            for message in incoming:
                return message
            order.append("asked for more")
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            await sent.put(message)

        task = asyncio.create_task(app(scope, receive, send))
        first = [await sent.get(), await sent.get()]
        assert not task.done()
        await task
        return [m["body"] for m in [first[1], *(sent.get_nowait() for _ in range(sent.qsize()))]], order

    bodies, order = asyncio.run(listen())
    assert bodies[:2] == [b"one", b"two"] and order == ["asked for more"]
