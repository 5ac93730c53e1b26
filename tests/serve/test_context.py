"""Request ids: one for each request, in the answer and for what is inside."""

from __future__ import annotations

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serve.context import CURRENT, HEADER, RequestContexts


async def _echo(request: Request) -> PlainTextResponse:
    await asyncio.sleep(0.001 * int(request.query_params["wait"]))
    return PlainTextResponse(f"{CURRENT.get().request_id} {request.headers[HEADER]}")


def test_each_request_has_an_id_of_its_own_inside_and_outside() -> None:
    async def answers() -> list[httpx.Response]:
        transport = httpx.ASGITransport(RequestContexts(Starlette(routes=[Route("/", _echo)])))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            asked = [client.get("/", params={"wait": 5 - n}, headers={HEADER: "theirs"}) for n in range(5)]
            return await asyncio.gather(*asked)

    said = asyncio.run(answers())
    for answer in said:
        assert answer.text == f"{answer.headers[HEADER]} {answer.headers[HEADER]}"
    assert len({answer.headers[HEADER] for answer in said}) == 5
