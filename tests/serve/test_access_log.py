"""The log of requests: a line each, of numbers and names that are the service's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from medrl.config.logs import LogsConfig
from serve.access_log import AccessLog, request_logger
from serve.context import CURRENT, RequestContext

NAME = "Alma Quillfeather"


async def _answer(request: Request) -> PlainTextResponse:
    context = CURRENT.get()
    context.key_id, context.version, context.prompt_tokens, context.completion_tokens = "ward", "7", 12, 34
    if await request.body() == b"fail":
        raise RuntimeError(NAME)
    return PlainTextResponse(NAME)


def _app(config: LogsConfig) -> AccessLog:
    inner = Starlette(routes=[Route("/v1/completions", _answer, methods=["POST"])])
    return AccessLog(inner, request_logger(config))


def _ask(config: LogsConfig, *requests: tuple[str, str, bytes]) -> list[dict[str, Any]]:
    async def ask() -> None:
        transport = httpx.ASGITransport(_app(config), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            for number, (method, path, body) in enumerate(requests):
                CURRENT.set(RequestContext(request_id=f"r{number}", received=0.25))
                await client.request(method, path, content=body)

    asyncio.run(ask())
    assert config.file
    return [json.loads(line) for line in Path(config.file).read_text().splitlines()]


def test_a_request_is_a_line(tmp_path: Path) -> None:
    [line] = _ask(LogsConfig(file=f"{tmp_path}/logs/requests.jsonl"), ("POST", "/v1/completions", b""))
    assert line.pop("ms") >= 0
    assert line == {
        "level": "info", "time": "1970-01-01T00:00:00.250+00:00", "request_id": "r0", "key_id": "ward",
        "method": "POST", "route": "/v1/completions", "status": 200, "version": "7",
        "prompt_tokens": 12, "completion_tokens": 34,
    }


def test_what_clients_make_up_is_not_in_it(tmp_path: Path) -> None:
    lines = _ask(LogsConfig(file=f"{tmp_path}/log"), ("GET", f"/v1/models/{NAME}", b""),
                 ("QUILLFEATHER", f"/v1/completions?name={NAME}", b""), ("POST", "/v1/completions", b"fail"))
    assert [(line["method"], line["route"], line["status"], line["level"]) for line in lines] == [
        ("GET", "other", 404, "warning"), ("other", "/v1/completions", 405, "warning"),
        ("POST", "/v1/completions", 500, "error")]
    assert "quillfeather" not in (tmp_path / "log").read_text().lower()


@pytest.mark.parametrize(("level", "statuses"), [("warning", [404, 500]), ("error", [500])])
def test_the_level_says_which_requests(tmp_path: Path, level: Any, statuses: list[int]) -> None:
    lines = _ask(LogsConfig(file=f"{tmp_path}/log", level=level), ("POST", "/v1/completions", b""),
                 ("GET", "/nowhere", b""), ("POST", "/v1/completions", b"fail"))
    assert [line["status"] for line in lines] == statuses


def test_a_client_that_went_away_is_told_from_a_failure(tmp_path: Path) -> None:
    async def leave() -> None:
        async def hang(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(60)

        CURRENT.set(RequestContext(request_id="r", received=0))
        app = AccessLog(hang, request_logger(LogsConfig(file=f"{tmp_path}/log")))
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "root_path": ""}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app(scope, None, None), 0.05)  # pyright: ignore[reportArgumentType]

    asyncio.run(leave())
    assert json.loads((tmp_path / "log").read_text())["status"] == 499
