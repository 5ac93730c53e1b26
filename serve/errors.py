"""Errors in OpenAI's shape, without a word of what was asked."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.context import CURRENT
from serve.error_words import safe_words

logger = logging.getLogger("ray.serve")
KEPT_HEADERS = {"allow", "retry-after", "vary"} | {
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
}
MAX_ERROR_BYTES = 2**20


class OwnError(JSONResponse):
    """An error in this service's own words: `ErrorScrub` lets it pass as it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if context := CURRENT.get(None):
            context.own_error = True
        await super().__call__(scope, receive, send)


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None, param: str | None = None
) -> OwnError:
    """`{"error": {"message", "type", "param", "code"}}`, the shape OpenAI's clients read."""
    return OwnError(_body(status, message, param), status, headers)


def log_failure(what: str, error: Exception) -> None:
    """Where it happened, but not the exception's own words, which may quote the text."""
    logger.error("%s: %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


class ErrorScrub:
    """ASGI middleware: whatever goes wrong inside, what leaves is in OpenAI's shape and quotes nothing.

    Statuses stay as they are; an exception is 500. Of the words only those that `safe_words` knows stay. In a stream of
    events errors are replaced as they come: vLLM sends whole events.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = _Answer(scope, receive, send)
        try:
            await self.app(scope, receive, answer.pass_on)
        except Exception as error:
            log_failure("a request failed", error)
            await answer.break_off()


class _Answer:
    """One answer on its way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.started = self.ended = self.streams = False
        self.failed: Message | None = None  # the start of an error's answer, held until its body is known
        self.body = b""

    async def pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            if message["status"] >= 400 and not CURRENT.get().own_error:
                self.failed = message
                return
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            body = message.get("body", b"")
            if self.failed:
                self.body += body[: MAX_ERROR_BYTES - len(self.body)]
                return await self._send_scrubbed(self.failed) if self.ended else None
            if self.streams and b'"error"' in body:
                message = {**message, "body": scrub_events(body)}
        await self.send(message)

    async def _send_scrubbed(self, start: Message) -> None:
        status = start["status"]
        headers = {name: value for name, value in Headers(raw=start["headers"]).items() if name in KEPT_HEADERS}
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError):
            said = None
        message, param = _safe(status, said)
        await error_response(status, message, headers, param)(self.scope, self.receive, self.send)

    async def break_off(self) -> None:
        """After an exception: what can still be said."""
        if self.ended:
            return
        if self.failed or not self.started:
            await error_response(500, "internal error")(self.scope, self.receive, self.send)
        elif self.streams:
            event = f"data: {json.dumps(_body(500, 'internal error', None))}\n\n"
            await self.send({"type": "http.response.body", "body": event.encode()})
        else:
            raise ConnectionAbortedError("an answer broke off after its start") from None


def scrub_events(body: bytes) -> bytes:
    """Server-sent events, those that tell of an error with nothing but safe words in them."""
    lines = body.split(b"\n")
    for index, line in enumerate(lines):
        if line.startswith(b"data:") and b'"error"' in line:
            lines[index] = _scrub_data(line)
    return b"\n".join(lines)


def _scrub_data(line: bytes) -> bytes:
    try:
        data = json.loads(line.removeprefix(b"data:"))
    except (ValueError, RecursionError):
        return b"data: " + json.dumps(_body(500, "internal error", None)).encode()
    inner = data.get("response") if isinstance(data, dict) else None  # of the Responses API: response.failed
    if isinstance(inner, dict) and inner.get("error"):
        data["response"] = inner | {"error": {"code": "server_error", "message": "internal error"}}
    elif isinstance(data, dict) and (data.get("error") or data.get("type") == "error"):
        status = _status_of(data.get("error"))
        data = {key: data[key] for key in ("type",) if key in data} | _body(status, *_safe(status, data))
    else:
        return line
    return b"data: " + json.dumps(data).encode()


def _safe(status: int, said: Any) -> tuple[str, str | None]:
    """The safe words of an error's body, whatever that is."""
    error = said.get("error") if isinstance(said, dict) else None
    message, param = (error.get("message"), error.get("param")) if isinstance(error, dict) else (None, None)
    return safe_words(status, message if isinstance(message, str) else "", param if isinstance(param, str) else None)


def _status_of(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and code in HTTPStatus._value2member_map_ and code >= 400 else 500


def _body(status: int, message: str, param: str | None) -> dict[str, Any]:
    kind = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}
