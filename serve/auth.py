"""Who may ask what: a bearer token with the right scope for every route but the open ones."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from medrl.config.keys import KeyConfig, key_hash
from serve.context import CURRENT
from serve.errors import error_response
from serve.scopes import needed_scope, route_of


class Authorization:
    """ASGI middleware: 401 without a key, 403 with a key of another scope; notes the key's id in the context.

    Routes that an app gets later are closed too. Without any `keys` everybody may ask the model, and nobody may do
    what needs the scope `admin`. Nothing but HTTP passes, besides the app's start and end.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[KeyConfig]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (self._refusal(scope) or self.app)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> Response | None:
        needed = needed_scope(route_of(scope))
        if needed is None or (needed == "infer" and not self.keys):
            return None
        key = self._key(Headers(scope=scope).get("authorization", ""))
        if key is None:
            message = "a valid API key is needed: Authorization: Bearer <key>"
            if not self.keys:
                message = "this route needs an API key, and the service has none"
            return error_response(401, message, {"WWW-Authenticate": "Bearer"})
        CURRENT.get().key_id = key.id
        return None if needed in key.scopes else error_response(403, f"the API key lacks the scope {needed}")

    def _key(self, header: str) -> KeyConfig | None:
        scheme, _, token = header.partition(" ")
        digest, found = key_hash(token.strip()), None
        # All of them, and digests of one length: the time it takes says nothing of the keys.
        for key in self.keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found if scheme.lower() == "bearer" else None
