"""No more requests than a replica can answer: a bounded queue before the model."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medrl.config.admission import AdmissionConfig
from serve.body_limit import replay
from serve.errors import error_response
from serve.scopes import GENERATE, route_of

FIRST_GUESS = 1.0  # seconds an answer takes, until one was measured
WEIGHT = 0.2  # of the newest answer in the moving average
LONGEST_RETRY = 120


class Admission:
    """ASGI middleware: requests that make the model work are answered, wait in the order they came, or get 503.

    Retry-After is the time after which a request that came now would be answered, by the measured mean of an answer's
    time. A client that goes away leaves the queue. Whoever reads `running` and `queued` sees the load.
    """

    def __init__(self, app: ASGIApp, limits: AdmissionConfig) -> None:
        self.app = app
        self.limits = limits
        self.running = 0
        self.mean = FIRST_GUESS
        self._queue: deque[asyncio.Future[None]] = deque()  # empty while there is room to run

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_of(scope) not in GENERATE:
            return await self.app(scope, receive, send)
        if self.running < self.limits.max_running:
            self.running += 1
        elif self.queued >= self.limits.max_queued:
            return await self._refusal("too many requests are waiting")(scope, receive, send)
        else:
            heard = await self._wait(receive)
            if heard is None:
                return await self._refusal("no place became free in time")(scope, receive, send)
            receive = replay(heard, receive)
        started = time.monotonic()
        try:
            await self.app(scope, receive, send)
        finally:
            self.mean += WEIGHT * (time.monotonic() - started - self.mean)
            self._give_place()

    async def _wait(self, receive: Receive) -> list[Message] | None:
        """What the client said while it waited for the place it now has; None when it got none, or has gone."""
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        gone: asyncio.Future[Message] | None = None
        heard: list[Message] | None = None
        try:
            body = await receive()  # the whole of it: BodyLimit stands before
            gone = asyncio.ensure_future(receive())
            await asyncio.wait({place, gone}, timeout=self.limits.queue_seconds, return_when=asyncio.FIRST_COMPLETED)
            if place.done() and not gone.done():
                heard = [body]
        finally:
            if gone:
                gone.cancel()
            if not place.done():
                self._queue.remove(place)
            elif heard is None:  # given to one who no longer wants it
                self._give_place()
        return heard

    def _give_place(self) -> None:
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self.running -= 1

    def _refusal(self, why: str) -> Response:
        seconds = (self.queued + 1) * self.mean / self.limits.max_running
        wait = min(max(math.ceil(seconds), 1), LONGEST_RETRY)
        return error_response(503, f"the service is busy: {why}", {"Retry-After": str(wait)})
