"""Medical manners: what the service says and does around the model, never inside an answer's text."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medrl.config.manners import MannersConfig
from serve.context import CURRENT
from serve.conversation import user_turns, with_system_prompt
from serve.escalation import Escalation, EscalationRules
from serve.fixed_answer import can_answer, fixed_answer
from serve.scopes import GENERATE, route_of

INTENDED_USE = "x-medrl-intended-use"
ESCALATION = "x-medrl-escalation"


class Manners:
    """ASGI middleware: the intended use in every answer's headers, the system prompt, and escalation.

    `model`: the name a fixed answer comes under. A body that is no JSON object goes on as it came, for vLLM to refuse.
    """

    def __init__(self, app: ASGIApp, config: MannersConfig, rules: EscalationRules | None, model: str) -> None:
        self.app = app
        self.config = config
        self.rules = rules
        self.model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, route = {INTENDED_USE: self.config.intended_use}, route_of(scope)
        send = _with_headers(send, headers)
        if scope["method"] != "POST" or route not in GENERATE:
            return await self.app(scope, receive, send)
        try:
            raw = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        body = _parse(raw)
        if found := self._escalation(body):
            headers[ESCALATION] = CURRENT.get().escalation = found.rule
            if self.config.escalation and self.config.escalation.action == "answer" and can_answer(route, body):
                answer = fixed_answer(body, found.answer, self.model, CURRENT.get().request_id)
                return await answer(scope, receive, send)
        prompted = self._prompted(body, route)
        if prompted != body:
            raw = json.dumps(prompted).encode()
            scope = {**scope, "headers": _with_length(scope["headers"], len(raw))}
        await self.app(scope, _replay(raw, receive), send)

    def _escalation(self, body: dict[str, Any]) -> Escalation | None:
        if not (self.rules and self.config.escalation):
            return None
        return self.rules.find(user_turns(body, self.config.escalation.turns))

    def _prompted(self, body: dict[str, Any], route: str) -> dict[str, Any]:
        prompt = self.config.system_prompt
        if not body or prompt.text is None:
            return body
        return with_system_prompt(body, route, prompt.text, replace=prompt.policy == "enforced")


def _parse(raw: bytes) -> dict[str, Any]:
    """The body's JSON object; empty for anything else."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    """Adds the headers that stand there when the answer starts."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0] != b"content-length"] + [(b"content-length", str(length).encode())]


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then what comes after it: that the client has gone."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_again() -> Message:
        return next(messages, None) or await receive()

    return receive_again
