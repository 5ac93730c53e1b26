"""Before Ray Serve's proxy: no request id of a client's comes in, one id goes out."""

from __future__ import annotations

import asyncio

import httpx
from ray.serve._private.http_util import RequestIdMiddleware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from serve.context import HEADER
from serve.proxy import middlewares

THEIRS = "Alma-Quillfeather"


async def _answer(request: Request) -> PlainTextResponse:
    headers = {HEADER: "ours"} if request.url.path == "/named" else {}
    return PlainTextResponse(request.headers[HEADER], headers=headers)


def _ask(path: str) -> httpx.Response:
    """Through what Ray Serve puts around its proxy: its own middleware, and ours outside of it."""
    app: ASGIApp = RequestIdMiddleware(Starlette(routes=[Route("/{name}", _answer)]))
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.get(path, headers={"X-Request-ID": THEIRS})

    return asyncio.run(ask())


def test_a_clients_id_comes_no_further() -> None:
    answer = _ask("/named")
    assert answer.text and THEIRS not in answer.text + str(answer.headers.multi_items())


def test_an_answer_has_one_id() -> None:
    assert _ask("/named").headers.get_list(HEADER) == ["ours"]
    unnamed = _ask("/refused by the proxy itself")
    assert unnamed.headers.get_list(HEADER) == [unnamed.text]
