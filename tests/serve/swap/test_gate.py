"""The gate: who passes, who waits, and what the header says."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serve.swap.gate import HEADER, Gate, Gated
from serve.versions import ServedVersion

OLD, NEW = ServedVersion("1", "a"), ServedVersion("2", "b")


class Service:
    """Answers with the weights it has, when it is let to."""

    def __init__(self) -> None:
        self.gate, self.weights, self.go_on = Gate(), "old", asyncio.Event()
        inner = Starlette(routes=[Route("/ask", self.answer, methods=["GET", "POST"])])
        transport = httpx.ASGITransport(app=Gated(inner, self.gate))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def answer(self, request: Request) -> Response:
        begun = self.weights
        if request.method == "POST":
            await self.go_on.wait()
        return PlainTextResponse(f"{begun} {self.weights}")

    def ask(self) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.post("/ask"))


def test_answers_end_before_the_weights_change_and_later_ones_wait() -> None:
    async def scenario() -> None:
        service = Service()
        service.gate.open(OLD)
        running = service.ask()
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(service.gate.close(5))
        await asyncio.sleep(0.01)
        waiting = service.ask()
        await asyncio.sleep(0.01)
        assert not closing.done()
        service.go_on.set()
        await closing
        assert running.done() and not waiting.done()
        assert (await service.client.get("/ask")).text == "old old"  # reading needs no weights
        service.weights = "new"
        service.gate.open(NEW)
        first, second = await running, await waiting
        assert (first.text, first.headers[HEADER]) == ("old old", "1")
        assert (second.text, second.headers[HEADER]) == ("new new", "2")

    asyncio.run(scenario())


def test_it_opens_again_when_an_answer_takes_too_long() -> None:
    async def scenario() -> None:
        service = Service()
        service.gate.open(OLD)
        running = service.ask()
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await service.gate.close(0.02)
        service.go_on.set()
        assert (await running).status_code == (await service.ask()).status_code == 200

    asyncio.run(scenario())


def test_a_client_that_goes_away_holds_nothing_up() -> None:
    async def scenario() -> None:
        service = Service()
        service.gate.open(OLD)
        inside = service.ask()
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(service.gate.close(5))
        await asyncio.sleep(0.01)
        outside = service.ask()
        await asyncio.sleep(0.01)
        inside.cancel()
        outside.cancel()
        await asyncio.wait_for(closing, 1)
        await asyncio.wait_for(service.gate.close(1), 1)

    asyncio.run(scenario())


def test_a_broken_replica_refuses_those_who_wait_too() -> None:
    async def scenario() -> None:
        service = Service()
        waiting = service.ask()
        await asyncio.sleep(0.01)
        service.gate.give_up()
        for answer in (await waiting, await service.ask()):
            assert answer.status_code == 503 and answer.headers["Retry-After"] and HEADER not in answer.headers
        with pytest.raises(RuntimeError):
            await service.gate.opened()

    asyncio.run(scenario())
