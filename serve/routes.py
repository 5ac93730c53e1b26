"""The routes that are not vLLM's."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from medrl.config.serving import ServeConfig
from medrl.feedback import FeedbackStore
from serve.admin import version_routes
from serve.feedback import feedback_route
from serve.request_ids import RequestIds
from serve.swap.gate import Gate


class OwnRoutes:
    """ASGI middleware: answers our own routes; everything else is for `app`, its start and end included."""

    def __init__(
        self, app: ASGIApp, config: ServeConfig, ids: RequestIds, gate: Gate, conductor: DeploymentHandle | None = None
    ) -> None:
        routes: list[BaseRoute] = [*version_routes(gate, conductor)]
        if config.feedback:
            routes.append(feedback_route(FeedbackStore(config.feedback), ids))
        self.app = app
        self.router = Router(routes, redirect_slashes=False, default=app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.router if scope["type"] == "http" else self.app)(scope, receive, send)
