"""Before vLLM's app: while the weights change, requests wait outside, so that an answer comes from one version."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import error_response
from serve.versions import ServedVersion

HEADER = "x-medrl-version"


class Gate:
    """Counts the requests that are inside. It is closed until it is opened for a version."""

    def __init__(self) -> None:
        self.version: ServedVersion | None = None  # None: closed
        self.broken = False  # for good: the replica will be replaced
        self._inside = 0
        self._news = asyncio.Event()  # for those who wait outside
        self._empty = asyncio.Event()
        self._empty.set()

    def open(self, version: ServedVersion) -> None:
        """Let requests in, to be answered by `version`."""
        self.version = version
        self._news.set()

    async def close(self, limit: float) -> None:
        """Let nobody in, and wait for those inside. TimeoutError after `limit` seconds; then it is as it was."""
        version, self.version = self.version, None
        self._news.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), limit)
        except TimeoutError:
            if version:
                self.open(version)
            raise

    def give_up(self) -> None:
        """Refuse everybody, those who wait too."""
        self.version, self.broken = None, True
        self._news.set()

    async def enter(self) -> ServedVersion | None:
        """Wait until the gate is open; the version that answers until `leave`, or None when it never will be."""
        while not (self.version or self.broken):
            await self._news.wait()
        if self.version:
            self._inside += 1
            self._empty.clear()
        return self.version

    async def opened(self) -> None:
        """Wait for the first opening. RuntimeError when there will be none."""
        if await self.enter() is None:
            raise RuntimeError("the version to be served could not be loaded")
        self.leave()

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._empty.set()


class Gated:
    """ASGI middleware: everything but GET and HEAD passes the gate, and its answer names the version it comes from.

    The gate stands outside the engine, not in its scheduler: a request may become several there (`n`, a list of
    prompts), and all of them have to see the same weights. It also makes the header true, which goes out
    before the first token.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        version = await self.gate.enter()
        if version is None:
            refusal = error_response(503, "this replica is being replaced; try again", {"Retry-After": "5"})
            return await refusal(scope, receive, send)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = version.number
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        finally:
            self.gate.leave()
