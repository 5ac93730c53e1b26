"""What is known of the request that is being answered."""

from __future__ import annotations

import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.request_ids import RequestIds

HEADER = "x-request-id"


@dataclass
class RequestContext:
    """One HTTP request. Later middleware fills in what it finds out."""

    request_id: str
    received: float = field(default_factory=time.time)  # seconds since 1970 UTC
    key_id: str = "anonymous"  # public name of the API key
    escalation: str = ""  # rule that found a sign of an emergency
    own_error: bool = False  # the answer is an error in this service's own words
    choices: int = 0  # answers asked for: the prompts' n, summed
    prompt_tokens: int = 0
    completion_tokens: int = 0  # so far
    version: str = ""  # number of the version that answers
    first_token: float | None = None  # time.monotonic() of a stream's first and last tokens
    last_token: float | None = None


CURRENT: ContextVar[RequestContext] = ContextVar("request")


class RequestContexts:
    """The outermost ASGI middleware: gives every HTTP request a context, and its id to the answer's headers.

    The id is always ours, so that no two answers share one. vLLM reads it from the request's headers and names its
    answer after it (`chatcmpl-<id>`).
    """

    def __init__(self, app: ASGIApp, ids: RequestIds | None = None) -> None:
        """`ids` None: ids that nothing else has to know again."""
        self.app = app
        self.ids = ids or RequestIds(secrets.token_bytes(32))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        context = RequestContext(self.ids.new(scope))
        CURRENT.set(context)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = context.request_id
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0] != HEADER.encode()]
        named = [*headers, (HEADER.encode(), context.request_id.encode())]
        await self.app({**scope, "headers": named}, receive, send_named)
