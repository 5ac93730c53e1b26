"""Bodies that are too large, too deep or no JSON do not reach the app."""

from __future__ import annotations

import re
from collections import deque

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import error_response

MIB = 2**20


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_mib`, be its size declared or not, 400 unless it is JSON.

    JSON as its standard has it: UTF-8, no lone surrogates, no NaN; and at most 201 levels deep, the parser's limit. The
    app gets the body as one message. An empty body passes.
    """

    def __init__(self, app: ASGIApp, max_mib: float) -> None:
        self.app = app
        self.max_mib = max_mib

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if headers.get("content-encoding", "identity") != "identity":
            return await error_response(415, "a compressed body cannot be read")(scope, receive, send)
        # A length that is no number no server lets through; what really comes is counted in any case.
        body = None if declared.isdecimal() and int(declared[:20]) > self._limit else await self._read(receive)
        if body is None:
            refusal = error_response(413, f"the body is larger than max_body_mib {self.max_mib:g}")
            return await refusal(scope, receive, send)
        whole: Message = {"type": "http.request", "body": body, "more_body": False}
        await (_refusal(body) or self.app)(scope, replay([whole], receive), send)

    @property
    def _limit(self) -> int:
        return int(self.max_mib * MIB)

    async def _read(self, receive: Receive) -> bytes | None:
        """None: more than the limit."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._limit:
                return None
            if not message.get("more_body", False):  # the end, or the client has gone
                return bytes(body)


def _refusal(body: bytes) -> Response | None:
    if not body:
        return None
    try:
        from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        # The parser's words hold the place alone.
        place = re.search(r"at line \d+ column \d+$", str(error))
        return error_response(400, f"the body is not valid JSON{f' {place[0]}' if place else ''}")
    return None


def replay(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that begins with messages that were received already."""
    first = deque(messages)

    async def replayed() -> Message:
        return first.popleft() if first else await receive()

    return replayed
