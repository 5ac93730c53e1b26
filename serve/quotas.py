"""How much one API key may ask for in a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medrl.config.keys import KeyConfig
from medrl.config.quotas import QuotaConfig
from serve.context import CURRENT, RequestContext
from serve.errors import error_response, log_failure
from serve.ledger import Used
from serve.scopes import needed_scope, route_of

LEDGER_SECONDS = 2.0


class SharedLedger(Protocol):
    """A `Ledger`, wherever it runs."""

    async def take(self, key: str, quota: QuotaConfig) -> list[Used]: ...

    async def charge(self, key: str, quota: QuotaConfig, tokens: int) -> None: ...


class Quotas:
    """ASGI middleware: 429 with Retry-After when a key's quota is used up, and OpenAI's x-ratelimit-* headers.

    Tokens are counted when an answer ends, as the engine counted them: answers that run at the same time may together
    go beyond the quota, by what they write. A ledger that does not answer in time lets requests pass.
    """

    def __init__(
        self, app: ASGIApp, quotas: Mapping[str, QuotaConfig], default: QuotaConfig | None, ledger: SharedLedger
    ) -> None:
        """`quotas`: of the keys, by id, that have one of their own; `default`: of all others."""
        self.app = app
        self.quotas = quotas
        self.default = default
        self.ledger = ledger
        self._charges: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or needed_scope(route_of(scope)) != "infer":
            return await self.app(scope, receive, send)
        context = CURRENT.get()
        quota = self.quotas.get(context.key_id, self.default)
        if quota is None:
            return await self.app(scope, receive, send)
        used = await self._take(context.key_id, quota)
        headers = _headers(used)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        if any(one.refused for one in used):
            return await _refusal(used)(scope, receive, send_with_headers)
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self._charge(context, quota)

    async def _take(self, key: str, quota: QuotaConfig) -> list[Used]:
        try:
            return await asyncio.wait_for(self.ledger.take(key, quota), LEDGER_SECONDS)
        except Exception as error:
            log_failure("the quotas' ledger does not answer", error)
            return []

    def _charge(self, context: RequestContext, quota: QuotaConfig) -> None:
        """In a task of its own: the request may be cancelled already."""
        if tokens := context.prompt_tokens + context.completion_tokens:
            task = asyncio.ensure_future(self._send_charge(context.key_id, quota, tokens))
            self._charges.add(task)
            task.add_done_callback(self._charges.discard)

    async def _send_charge(self, key: str, quota: QuotaConfig, tokens: int) -> None:
        try:
            await asyncio.wait_for(self.ledger.charge(key, quota, tokens), LEDGER_SECONDS)
        except Exception as error:
            log_failure("tokens of an answer are not in the quotas' ledger", error)


def quotas_of(keys: Sequence[KeyConfig]) -> dict[str, QuotaConfig]:
    """The keys that have a quota of their own."""
    return {key.id: key.quotas for key in keys if key.quotas}


def _headers(used: list[Used]) -> dict[str, str]:
    return {
        f"x-ratelimit-{what}-{one.name}": str(value)
        for one in used
        for what, value in (("limit", one.limit), ("remaining", one.remaining), ("reset", f"{one.reset}s"))
    }


def _refusal(used: list[Used]) -> Response:
    over = [one for one in used if one.refused]
    what = " and ".join(f"{one.limit} {one.name}" for one in over)
    wait = max(1, *(one.reset for one in over))
    return error_response(429, f"the API key's quota of {what} a minute is used up", {"Retry-After": str(wait)})
