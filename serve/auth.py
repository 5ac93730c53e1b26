"""Who may ask: a bearer token for every route but the open ones."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from medrl.environment import read_secret
from serve.errors import error_response


def key_digest(variable: str) -> bytes:
    """SHA-256 of the key in an environment variable: what travels to the replicas in place of it."""
    return _digest(read_secret(variable, "the service"))


class BearerAuth:
    """ASGI middleware: 401 for every request without the key, whatever its route, unless that is in `open_paths`.

    Routes that an app gets later are closed too. Nothing but HTTP passes, besides the app's start and end.
    """

    def __init__(self, app: ASGIApp, digest: bytes, open_paths: Collection[str]) -> None:
        self.app = app
        self.digest = digest
        self.open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._may_pass(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = {"WWW-Authenticate": "Bearer"}
            await error_response(401, "a valid API key is needed: Authorization: Bearer <key>", headers)(
                scope, receive, send
            )
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _may_pass(self, scope: Scope) -> bool:
        if scope["path"] in self.open_paths:
            return True
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        # Digests are of one length whatever came, so that the comparison takes the same time for all of it.
        return hmac.compare_digest(_digest(token.strip()), self.digest) and scheme.lower() == "bearer"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
