"""Every route is closed without the key, those that come later too."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from medrl.errors import ConfigError
from serve.auth import BearerAuth, key_digest

KEY = "correct-horse"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> BearerAuth:
    monkeypatch.setenv("SERVICE_KEY", KEY)
    routes = [Route(path, lambda _: PlainTextResponse("in")) for path in ("/health", "/score", "/added/later")]
    return BearerAuth(Starlette(routes=routes), key_digest("SERVICE_KEY"), {"/health"})


def get(app, path: str, header: str | None = None) -> httpx.Response:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(path, headers={"Authorization": header} if header else {})

    return asyncio.run(request())


@pytest.mark.parametrize("header", [
    None, "Bearer", "Bearer ", "Bearer wrong", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer é",
])
@pytest.mark.parametrize("path", ["/score", "/added/later", "/", "/no/such", "/health/", "//health", "/score?/health"])
def test_without_the_key_nothing_answers(app: BearerAuth, path: str, header: str | None) -> None:
    response = get(app, path, header.encode() if header else None)  # pyright: ignore[reportArgumentType]
    assert response.status_code == 401 and response.json()["error"]["code"] == 401
    assert response.headers["WWW-Authenticate"] == "Bearer" and KEY not in response.text


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer  {KEY} "])
def test_the_key_opens_every_route(app: BearerAuth, header: str) -> None:
    assert [get(app, path, header).status_code for path in ("/score", "/added/later", "/no/such")] == [200, 200, 404]


def test_health_is_open(app: BearerAuth) -> None:
    assert get(app, "/health").text == "in"


def test_a_websocket_is_refused(app: BearerAuth) -> None:
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    asyncio.run(app({"type": "websocket", "path": "/health", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "")
    with pytest.raises(ConfigError, match="SERVICE_KEY"):
        key_digest("SERVICE_KEY")
