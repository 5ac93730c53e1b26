"""What is counted of a request, and what a scrape shows."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.util.metrics import Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serve.context import CURRENT, RequestContexts
from serve.metrics import GONE, Metrics, ServiceMetrics, merge

WHO = {"version": "7", "key": "clinic"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """Every value that goes to Ray, by metric."""
    values = defaultdict(list)
    monkeypatch.setattr(
        Metric, "_record", lambda self, value, tags=None: values[self.info["name"]].append((value, tags or {})))
    return values


def ask(answer: Callable[[Request], Any], path: str = "/v1/chat/completions") -> httpx.Response:
    app = RequestContexts(Metrics(Starlette(routes=[Route("/{rest:path}", answer)]), ServiceMetrics()))

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path)

    return asyncio.run(request())


async def left(answer: Callable[[Request], Any]) -> None:
    """A request whose client leaves before the answer."""
    app = RequestContexts(Metrics(Starlette(routes=[Route("/", answer)]), ServiceMetrics()))
    messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async def send(_message) -> None:
        pass

    await app({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive, send)


async def _stream(_request: Request) -> Response:
    async def parts():
        for _ in range(5):
            await asyncio.sleep(0.05)
            context.last_token = time.monotonic()
            context.first_token = context.first_token or context.last_token
            context.completion_tokens += 2
            yield "x"

    context = CURRENT.get()
    context.key_id, context.version, context.choices, context.prompt_tokens = "clinic", "7", 2, 11
    return StreamingResponse(parts())


def test_a_stream_of_two_answers(recorded) -> None:
    assert ask(_stream).text == "xxxxx"
    route = {"route": "/v1/chat/completions"}
    assert recorded["medrl_requests_total"] == [(1, {"status": "200"} | route | WHO)]
    (latency, labels), = recorded["medrl_request_seconds"]
    assert 0.25 < latency < 1 and labels == route | WHO
    (first, labels), = recorded["medrl_first_token_seconds"]
    assert 0.05 < first < 0.15 and labels == WHO
    (each, labels), = recorded["medrl_output_token_seconds"]  # 4 steps of 50 ms, each with a token of both answers
    assert 0.05 < each < 0.1 and labels == WHO
    assert recorded["medrl_prompt_tokens_total"] == [(11, WHO)]
    assert recorded["medrl_completion_tokens_total"] == [(10, WHO)]
    assert [value for value, _ in recorded["medrl_requests_running"]] == [1, 0]


@pytest.mark.parametrize(("path", "label"), [
    ("/v1/models", "/v1/models"), ("/health", "/health"), ("/patients/4711", "other"), ("/v1/models/secret", "other"),
])
def test_only_known_routes_are_labels(recorded, path: str, label: str) -> None:
    ask(lambda _request: PlainTextResponse("", 404), path)
    (_, labels), = recorded["medrl_requests_total"]
    assert labels == {"route": label, "status": "404", "version": "", "key": "anonymous"}
    assert "medrl_first_token_seconds" not in recorded and "medrl_prompt_tokens_total" not in recorded


def test_a_failure_and_a_client_that_went_away_count(recorded) -> None:
    async def fails(_request: Request) -> Response:
        raise RuntimeError

    async def gone(_request: Request) -> Response:
        raise asyncio.CancelledError

    async def leaves(request: Request) -> Response:
        await request.receive()
        assert (await request.receive())["type"] == "http.disconnect"
        return PlainTextResponse("nobody reads this")

    assert ask(fails).status_code == 500
    with pytest.raises(asyncio.CancelledError):
        ask(gone)
    asyncio.run(left(leaves))
    assert [labels["status"] for _, labels in recorded["medrl_requests_total"]] == ["500", str(GONE), str(GONE)]
    assert recorded["medrl_requests_running"][-1][0] == 0


def test_the_pages_of_two_nodes_are_one() -> None:
    def page(worker: str, value: int) -> str:
        return (f'# HELP ray_medrl_requests_total of requests\n# TYPE ray_medrl_requests_total counter\n'
                f'ray_medrl_requests_total{{WorkerId="{worker}"}} {value}\n'
                f'# HELP ray_node_disk_free bytes\n# TYPE ray_node_disk_free gauge\nray_node_disk_free 5\n'
                f'# HELP ray_vllm_num_requests_running of requests\n# TYPE ray_vllm_num_requests_running gauge\n'
                f'ray_vllm_num_requests_running{{WorkerId="{worker}"}} 1\n')

    families = list(text_string_to_metric_families(merge([page("a", 3), page("b", 4)])))
    assert [family.name for family in families] == ["ray_medrl_requests", "ray_vllm_num_requests_running"]
    assert [(sample.labels["WorkerId"], sample.value) for sample in families[0].samples] == [("a", 3), ("b", 4)]
