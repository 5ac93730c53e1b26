"""Whether a replica takes requests: not when its engine has died, nor while it drains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import error_response

LOG = logging.getLogger("ray.serve")
RETRY_AFTER = "10"  # seconds; about what it takes until another replica is there


class Doorway:
    """ASGI middleware: 503 with Retry-After for every request, /health included, that comes while it is shut."""

    def __init__(self, app: ASGIApp, alive: Callable[[], bool] = lambda: True) -> None:
        """`alive`: whether what is behind can answer at all."""
        self.app = app
        self.alive = alive
        self.draining = False
        self.running: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self.draining or not self.alive():
            message = "the service is ending" if self.draining else "the model is being started again"
            return await error_response(503, message, {"Retry-After": RETRY_AFTER})(scope, receive, send)
        task = asyncio.current_task()
        assert task
        self.running.add(task)
        try:
            await self.app(scope, receive, send)
        finally:
            self.running.discard(task)

    async def drain(self, seconds: float) -> None:
        """Shut it for good and wait until what runs has ended; what still runs after `seconds` is cut off."""
        self.draining = True
        if self.running:
            await asyncio.wait(self.running, timeout=seconds)
        if self.running:
            LOG.warning("%d answers were cut off after %g s", len(self.running), seconds)
        for task in self.running:
            task.cancel()
