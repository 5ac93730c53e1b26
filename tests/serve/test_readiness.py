"""A replica that drains, or whose engine has died, refuses; what runs comes to its end, but not without limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serve.readiness import Doorway


async def _sleep(request: Request) -> PlainTextResponse:
    await asyncio.sleep(float(request.query_params.get("seconds", 0)))
    return PlainTextResponse("done")


def gate(alive: Callable[[], bool] = lambda: True) -> Doorway:
    return Doorway(Starlette(routes=[Route("/sleep", _sleep), Route("/health", _sleep)]), alive)


def client(app: Doorway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def test_draining_finishes_what_runs_and_refuses_the_rest() -> None:
    async def scene() -> tuple[httpx.Response, list[httpx.Response]]:
        app = gate()
        async with client(app) as asks:
            running = asyncio.create_task(asks.get("/sleep", params={"seconds": 0.2}))
            await asyncio.sleep(0.05)
            draining = asyncio.create_task(app.drain(5))
            await asyncio.sleep(0.01)
            refused = [await asks.get(path) for path in ("/sleep", "/health")]
            assert not draining.done()
            await draining
            assert running.done() or (await asyncio.wait([running], timeout=0.1))[0]
            return await running, refused

    finished, refused = asyncio.run(scene())
    assert (finished.status_code, finished.text) == (200, "done")
    for answer in refused:
        assert answer.status_code == 503 and answer.json()["error"]["code"] == 503
        assert int(answer.headers["retry-after"]) > 0


def test_draining_cuts_off_what_does_not_end() -> None:
    async def scene() -> float:
        app = gate()
        async with client(app) as asks:
            running = asyncio.create_task(asks.get("/sleep", params={"seconds": 60}))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            await app.drain(0.1)
            await asyncio.wait([running])
            assert running.cancelled()
            return time.monotonic() - started

    assert 0.1 <= asyncio.run(scene()) < 1


def test_nothing_to_wait_for() -> None:
    started = time.monotonic()
    asyncio.run(gate().drain(30))
    assert time.monotonic() - started < 1


def test_a_dead_engine_is_refused_before_it_is_asked() -> None:
    alive = True

    async def scene() -> list[int]:
        nonlocal alive
        async with client(gate(lambda: alive)) as asks:
            before = await asks.get("/health")
            alive = False
            return [before.status_code, (await asks.get("/health")).status_code, (await asks.get("/sleep")).status_code]

    assert asyncio.run(scene()) == [200, 503, 503]
