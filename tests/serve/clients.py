"""Requests to an ASGI app without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from starlette.types import ASGIApp

from medrl.config.keys import KeyConfig, KeyScope, key_hash


def ask(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer to one request."""

    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(request())


def key_config(name: str, key: str, *scopes: KeyScope) -> KeyConfig:
    """What a service knows of `key`."""
    return KeyConfig(id=name, sha256=key_hash(key), scopes=list(scopes))
