"""The routes that are not vLLM's."""

from __future__ import annotations

from collections.abc import Sequence

from ray.serve.handle import DeploymentHandle
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from medrl.config.serving import ServeConfig
from serve.admin import version_routes
from serve.feedback import feedback_routes
from serve.metrics import metrics_route
from serve.page import playground_routes
from serve.request_ids import RequestIds
from serve.swap.gate import Gate


def own_routes(
    config: ServeConfig, ids: RequestIds, gate: Gate, conductor: DeploymentHandle | None
) -> list[BaseRoute]:
    """All of them, for a service as `config` has it."""
    return [metrics_route(), *version_routes(gate, conductor), *feedback_routes(config.feedback, ids),
            *playground_routes(config)]


class OwnRoutes:
    """ASGI middleware: answers the routes it is given; every other request goes on to `app`."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.router = Router(routes, redirect_slashes=False, default=app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A start or an end is for the app around whose routes ours are.
        await (self.router if scope["type"] == "http" else self.app)(scope, receive, send)
