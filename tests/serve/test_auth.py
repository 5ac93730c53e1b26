"""Every route is closed without the key it needs, those that come later too."""

from __future__ import annotations

import asyncio
import hmac

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from serve.auth import Authorization
from serve.context import CURRENT, RequestContexts
from tests.serve.clients import ask, key_config

DOCTOR, ADMIN, BOTH = "correct-horse", "battery-staple", "paper-clip"
KEYS = [
    key_config("doctor", DOCTOR, "infer"),
    key_config("boss", ADMIN, "admin"),
    key_config("ops", BOTH, "infer", "admin"),
]
PATHS = ("/health", "/playground", "/playground/page.js", "/v1/models", "/invocations", "/pause", "/added/later")


async def _say_who(_request) -> PlainTextResponse:
    return PlainTextResponse(CURRENT.get().key_id)


def app_with(keys) -> ASGIApp:
    routes = [Route(path, _say_who) for path in PATHS]
    return RequestContexts(Authorization(Starlette(routes=[*routes, Mount("/candidate", routes=routes)]), keys))


def get(path: str, header: str | bytes | None = None, keys=KEYS) -> httpx.Response:
    return ask(app_with(keys), "GET", path, headers={"Authorization": header} if header else {})


@pytest.mark.parametrize("header", [
    None, "Bearer", "Bearer ", "Bearer wrong", f"Bearer {BOTH}x", f"Bearer {BOTH[:-1]}", f"Basic {BOTH}", BOTH,
    "Bearer é".encode(), f"Bearer {KEYS[2].sha256}",
])
@pytest.mark.parametrize("path", [
    "/v1/models", "/pause", "/added/later", "/", "/no/such", "/health/", "//health", "/pause?/health", "/healthz",
    "/playgrounds", "/health%2f..%2fpause",
])
def test_without_a_key_nothing_answers(path: str, header: str | bytes | None) -> None:
    response = get(path, header)
    assert response.status_code == 401 and response.json()["error"]["code"] == 401
    assert response.headers["WWW-Authenticate"] == "Bearer" and BOTH not in response.text


@pytest.mark.parametrize(("key", "path", "status"), [
    (DOCTOR, "/v1/models", 200), (DOCTOR, "/invocations", 200), (DOCTOR, "/pause", 403), (DOCTOR, "/added/later", 403),
    (DOCTOR, "/no/such", 403), (ADMIN, "/v1/models", 403), (ADMIN, "/pause", 200), (ADMIN, "/added/later", 200),
    (BOTH, "/v1/models", 200), (BOTH, "/pause", 200), (BOTH, "/no/such", 404),
])
def test_a_key_opens_what_its_scopes_name(key: str, path: str, status: int) -> None:
    response = get(path, f"bearer  {key} ")
    assert response.status_code == status
    if status == 403:
        lacking = "infer" if key == ADMIN else "admin"
        assert response.json()["error"]["message"] == f"the API key lacks the scope {lacking}"


def test_the_context_knows_whose_key_it_was() -> None:
    assert get("/pause", f"Bearer {ADMIN}").text == "boss"
    assert get("/v1/models", f"Bearer {DOCTOR}").text == "doctor"
    assert get("/health").text == "anonymous"


@pytest.mark.parametrize("path", ["/health", "/playground", "/playground/page.js"])
def test_open_paths(path: str) -> None:
    assert get(path).status_code == 200


def test_without_keys_everybody_may_ask_and_nobody_administer() -> None:
    assert get("/v1/models", keys=[]).text == "anonymous"
    for path in ("/pause", "/added/later"):
        refused = get(path, "Bearer any", keys=[])
        assert refused.status_code == 401 and "the service has none" in refused.text


def test_a_prefix_before_the_app_changes_nothing() -> None:
    """Ray Serve mounts an app at its route prefix."""
    app = RequestContexts(Starlette(routes=[Mount("/candidate", app=app_with(KEYS))]))
    headers = {"Authorization": f"Bearer {DOCTOR}"}
    for path, status in (("/health", 200), ("/v1/models", 401), ("/pause", 401)):
        assert ask(app, "GET", f"/candidate{path}").status_code == status
    assert ask(app, "GET", "/candidate/v1/models", headers=headers).status_code == 200
    assert ask(app, "GET", "/candidate/pause", headers=headers).status_code == 403


@pytest.mark.parametrize("token", [DOCTOR, BOTH, "wrong", ""])
def test_every_key_is_compared_whatever_came(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    compared: list[tuple[int, int]] = []
    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or original(a, b))
    get("/v1/models", f"Bearer {token}")
    assert compared == [(64, 64)] * len(KEYS)


def test_a_websocket_is_refused() -> None:
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    asyncio.run(app_with(KEYS)({"type": "websocket", "path": "/health", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
