"""A bounded queue in the order of arrival, and refusals that say when to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from medrl.config.admission import AdmissionConfig
from serve.admission import Admission
from serve.body_limit import BodyLimit
from serve.context import RequestContexts

CHAT = "/v1/completions"


class Model:
    """Answers when it is told to."""

    def __init__(self, **limits) -> None:
        self.started: list[str] = []
        self.gate = asyncio.Semaphore(0)
        routes = [Route(CHAT, self.answer, methods=["POST"]), Route("/health", lambda _: PlainTextResponse("ok"))]
        self.admission = Admission(Starlette(routes=routes), AdmissionConfig(**limits))
        transport = httpx.ASGITransport(RequestContexts(BodyLimit(self.admission, 1.0)))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service")

    async def answer(self, request: Request) -> PlainTextResponse:
        name = (await request.body()).decode()
        self.started.append(name)
        await self.gate.acquire()
        return PlainTextResponse(name)

    async def ask(self, count: int, first: int = 0) -> list[asyncio.Task[httpx.Response]]:
        asked = []
        for number in range(first, first + count):
            asked.append(asyncio.create_task(self.client.post(CHAT, content=str(number))))
            await settle()
        return asked

    def answer_all(self, count: int) -> None:
        for _ in range(count):
            self.gate.release()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))  # pyright: ignore[reportArgumentType]


def test_in_the_order_they_came_and_one_too_many_is_503() -> None:
    async def scenario() -> None:
        model = Model(max_running=2, max_queued=3)
        asked = await model.ask(6)
        assert model.started == ["0", "1"] and model.admission.queued == 3
        refused = await asked[5]
        assert refused.status_code == 503 and refused.json()["error"]["message"].startswith("the service is busy")
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await model.client.get("/health")).text == "ok"
        model.answer_all(5)
        assert [answer.text for answer in await asyncio.gather(*asked[:5])] == list("01234")
        assert model.started == list("01234") and (model.admission.running, model.admission.queued) == (0, 0)

    run(scenario)


def test_no_queue_at_all() -> None:
    async def scenario() -> None:
        model = Model(max_running=1, max_queued=0)
        asked = await model.ask(2)
        assert (await asked[1]).status_code == 503
        model.answer_all(1)
        assert (await asked[0]).status_code == 200

    run(scenario)


def test_a_wait_that_is_too_long_ends_in_503_and_frees_its_place_in_the_queue() -> None:
    async def scenario() -> None:
        model = Model(max_running=1, max_queued=1, queue_seconds=0.1)
        asked = await model.ask(2)
        refused = await asked[1]
        assert refused.status_code == 503 and "in time" in refused.text and model.admission.queued == 0
        asked += await model.ask(1, first=2)
        model.answer_all(2)
        assert [(await asked[n]).text for n in (0, 2)] == ["0", "2"] and model.started == ["0", "2"]

    run(scenario)


@pytest.mark.parametrize("steps", [None, *range(12)])
def test_a_request_that_is_cancelled_leaves_no_trace(steps: int | None) -> None:
    """Ray Serve cancels the request of a client that goes away: while it waits (None), or about when its turn comes."""

    async def scenario() -> None:
        model = Model(max_running=1, max_queued=5)
        asked = await model.ask(3)
        if steps is not None:
            model.answer_all(1)
            for _ in range(steps):
                await asyncio.sleep(0)
        asked[1].cancel()
        model.answer_all(3)
        assert (await asked[0]).text == "0" and (await asked[2]).text == "2"
        await asyncio.wait({asked[1]})
        assert (model.admission.running, model.admission.queued) == (0, 0)

    run(scenario)


def test_a_client_that_says_it_is_gone_leaves_the_queue() -> None:
    async def scenario() -> None:
        model = Model(max_running=1, max_queued=5)
        asked = await model.ask(1)
        messages: asyncio.Queue[dict] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": b"x"})
        sent: list = []

        async def send(message) -> None:
            sent.append(message)

        scope = {"type": "http", "path": CHAT, "method": "POST", "headers": [], "query_string": b""}
        waiting = asyncio.create_task(RequestContexts(model.admission)(scope, messages.get, send))
        await settle()
        assert model.admission.queued == 1
        messages.put_nowait({"type": "http.disconnect"})
        await waiting
        assert model.admission.queued == 0 and "x" not in model.started
        model.answer_all(1)
        assert (await asked[0]).status_code == 200 and model.admission.running == 0

    run(scenario)


def test_a_failure_gives_its_place_back() -> None:
    async def scenario() -> None:
        async def fail(_scope, _receive, _send) -> None:
            raise RuntimeError

        admission = Admission(fail, AdmissionConfig(max_running=1))
        for _ in range(3):
            with suppress(RuntimeError):
                await admission({"type": "http", "path": CHAT}, asyncio.sleep, asyncio.sleep)  # pyright: ignore
        assert admission.running == 0

    run(scenario)


def test_retry_after_follows_the_measured_time_of_an_answer() -> None:
    async def scenario() -> None:
        model = Model(max_running=2, max_queued=4)
        for mean, expected in ((0.01, 1), (3.0, 8), (10.0, 25), (1000.0, 120)):  # (4 + 1) * mean / 2
            model.admission.mean = mean
            asked = await model.ask(7)
            assert (await asked[6]).headers["Retry-After"] == str(expected)
            model.answer_all(6)
            await asyncio.gather(*asked)
        before = model.admission.mean
        asked = await model.ask(1)
        model.answer_all(1)
        await asked[0]
        assert before * 0.79 < model.admission.mean < before * 0.81

    run(scenario)
