"""What a key may use in a minute."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from medrl.config.keys import KeyConfig
from medrl.config.quotas import QuotaConfig
from serve.auth import Authorization
from serve.context import CURRENT, RequestContexts
from serve.ledger import Ledger
from serve.quotas import Quotas, SharedLedger, quotas_of
from tests.serve.clients import key_config

KEYS = [key_config("ward", "w", "infer"), key_config("clinic", "c", "infer"), key_config("ops", "o", "admin")]
START = 1_800_000_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its first entry is the time."""
    now = [START]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


async def _answer(request) -> PlainTextResponse:
    CURRENT.get().prompt_tokens, CURRENT.get().completion_tokens = 30, int(request.query_params.get("tokens", 0))
    return PlainTextResponse("yes")


def replica(ledger: SharedLedger, default: QuotaConfig | None, keys: list[KeyConfig] = KEYS) -> httpx.AsyncClient:
    app = Starlette(routes=[Route(path, _answer) for path in ("/v1/completions", "/pause", "/health")])
    limited = RequestContexts(Authorization(Quotas(app, quotas_of(keys), default, ledger), keys))
    return httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://service")


async def ask(client: httpx.AsyncClient, key: str = "w", path: str = "/v1/completions", **params) -> httpx.Response:
    answer = await client.get(path, params=params, headers={"Authorization": f"Bearer {key}"})
    await asyncio.sleep(0)  # the charge is a task of its own
    return answer


def test_requests_of_a_key_over_all_replicas_until_its_minute_is_over(clock: list[float]) -> None:
    async def scenario() -> None:
        ledger = Ledger()
        replicas = [replica(ledger, QuotaConfig(requests_per_minute=5)) for _ in range(3)]
        answers = [await ask(replicas[n % 3]) for n in range(5)]
        assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == list("43210")
        assert answers[0].headers["x-ratelimit-limit-requests"] == "5"
        clock[0] += 20
        refused = await ask(replicas[0])
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "40"
        assert refused.headers["x-ratelimit-reset-requests"] == "40s"
        assert refused.json()["error"]["message"] == "the API key's quota of 5 requests a minute is used up"
        assert (await ask(replicas[1], key="c")).status_code == 200  # another key
        clock[0] += 41
        assert (await ask(replicas[0])).status_code == 200

    asyncio.run(scenario())


def test_tokens_are_counted_when_the_answer_ends_even_beyond_the_quota(clock: list[float]) -> None:
    async def scenario() -> None:
        client = replica(Ledger(), QuotaConfig(tokens_per_minute=100))
        first, second, third = [await ask(client, tokens=tokens) for tokens in (20, 500, 0)]
        assert [a.status_code for a in (first, second, third)] == [200, 200, 429]
        assert [a.headers["x-ratelimit-remaining-tokens"] for a in (first, second, third)] == ["100", "50", "0"]
        assert "100 tokens a minute" in third.text and int(third.headers["Retry-After"]) == 60
        clock[0] += 61
        assert (await ask(client)).status_code == 200

    asyncio.run(scenario())


def test_a_key_may_have_quotas_of_its_own() -> None:
    async def scenario() -> None:
        keys = [KEYS[0].model_copy(update={"quotas": QuotaConfig(requests_per_minute=1)}), *KEYS[1:]]
        client = replica(Ledger(), None, keys)
        assert [(await ask(client)).status_code for _ in range(2)] == [200, 429]
        assert [(await ask(client, key="c")).status_code for _ in range(2)] == [200, 200]

    asyncio.run(scenario())


def test_routes_for_admin_and_open_ones_cost_nothing() -> None:
    async def scenario() -> None:
        client = replica(Ledger(), QuotaConfig(requests_per_minute=1))
        assert [(await ask(client, key="o", path="/pause")).status_code for _ in range(3)] == [200] * 3
        assert [(await ask(client, path="/health")).status_code for _ in range(3)] == [200] * 3
        assert (await ask(client)).status_code == 200

    asyncio.run(scenario())


def test_a_refused_request_costs_nothing(clock: list[float]) -> None:
    async def scenario() -> None:
        ledger, quota = Ledger(), QuotaConfig(requests_per_minute=3, tokens_per_minute=10)
        await ledger.charge("k", quota, 10)
        for _ in range(5):
            requests, tokens = await ledger.take("k", quota)
            assert tokens.refused and not requests.refused and requests.remaining == 3
        clock[0] += 60
        assert [used.remaining for used in await ledger.take("k", quota)] == [2, 10]

    asyncio.run(scenario())


class Broken:
    async def take(self, key: str, quota: QuotaConfig) -> list:
        raise ConnectionError

    async def charge(self, key: str, quota: QuotaConfig, tokens: int) -> None:
        raise ConnectionError


def test_without_its_ledger_the_service_goes_on() -> None:
    assert asyncio.run(ask(replica(Broken(), QuotaConfig(requests_per_minute=1)), tokens=1)).status_code == 200
