"""The routes that are not vLLM's."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnRoutes:
    """ASGI middleware: answers the routes it is given; every other request goes on to `app`."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.router = Router(routes, redirect_slashes=False, default=app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A start or an end is for the app around whose routes ours are.
        await (self.router if scope["type"] == "http" else self.app)(scope, receive, send)
