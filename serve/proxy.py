"""What stands before Ray Serve's own HTTP proxy: request ids are nobody's but ours."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.context import HEADER

NAME = HEADER.encode()


class OwnRequestIds:
    """ASGI middleware: clients choose no request ids, and an answer has one.

    Ray Serve would take a request's id from its client, write it into its logs, and add it to the id that the answer
    already has.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                ids = [pair for pair in message["headers"] if pair[0].lower() == NAME]
                message["headers"] = [pair for pair in message["headers"] if pair not in ids[1:]]
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0].lower() != NAME]
        await self.app({**scope, "headers": headers}, receive, send_once)


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names: applied outside of Ray Serve's own middleware."""
    return [Middleware(OwnRequestIds)]
