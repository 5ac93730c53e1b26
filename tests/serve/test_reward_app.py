"""The scoring service's answers and refusals, around a function in place of a model."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from medrl.config.serving import ServeRewardConfig
from medrl.errors import DataError, RewardError
from serve.reward import RewardApp
from tests.serve.clients import key_config

SECRET = "Frau Mustermann"
QUESTION = {"role": "user", "content": SECRET}
ITEM = {"messages": [QUESTION], "answer": SECRET, "ended": True}
CONFIG = ServeRewardConfig(model="rm", max_items=3, max_body_mib=0.01, max_requests=2)


def app_around(score=lambda requests: np.array([len(r.answer) - r.ended for r in requests], np.float32), keys=()):
    return RewardApp(CONFIG, score, calibrated=True).asgi(keys)


def ask(app, *bodies: Any, path: str = "/score", method: str = "POST", headers=None) -> list[httpx.Response]:
    """The responses to bodies that are sent at the same time; what is not bytes goes as JSON."""

    async def requests() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            contents = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
            return await asyncio.gather(*(client.request(method, path, content=c, headers=headers) for c in contents))

    return asyncio.run(requests())


def refusal(response: httpx.Response, status: int) -> str:
    """The message of an error, in which there is no text of the request."""
    assert response.status_code == response.json()["error"]["code"] == status
    assert "Mustermann" not in response.text and "Traceback" not in response.text
    return response.json()["error"]["message"]


def test_scores_in_order_and_whether_they_are_calibrated() -> None:
    cut = {"messages": [QUESTION], "answer": "xyz", "ended": False}
    default = {"messages": [QUESTION], "answer": "xyz"}
    (response,) = ask(app_around(), {"items": [ITEM, cut, default]})
    assert response.json() == {"scores": [len(SECRET) - 1, 3.0, 2.0], "calibrated": True}


def test_health_says_so_too() -> None:
    (response,) = ask(app_around(), b"", path="/health", method="GET")
    assert response.json() == {"status": "ok", "calibrated": True}


@pytest.mark.parametrize(("body", "said"), [
    (b"", "body: json_invalid"),
    ([], "body: model_type"),
    ({}, "items: missing"),
    ({"items": []}, "items: too_short"),
    ({"items": [ITEM | {"messages": []}]}, "items.0.messages: too_short"),
    ({"items": [ITEM, {"messages": [QUESTION]}]}, "items.1.answer: missing"),
    ({"items": [ITEM | {"answer": None}]}, "items.0.answer: string_type"),
    ({"items": [ITEM | {"ended": 1}]}, "items.0.ended: bool_type"),
    ({"items": [ITEM | {"messages": [QUESTION | {"content": [SECRET]}]}]}, "items.0.messages.0.content: string_type"),
    ({"items": [ITEM | {SECRET: 1}]}, "items.0.…: extra_forbidden"),
])
def test_a_body_of_another_form_is_422(body: Any, said: str) -> None:
    assert said in refusal(ask(app_around(), body)[0], 422)


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"items": [{"messages": [], "answer": "\\ud800"}]}', b"[" * 9000])
def test_a_body_that_is_not_json_is_400(body: bytes) -> None:
    refusal(ask(app_around(), body)[0], 400)


def test_limits_are_413() -> None:
    assert "4 items are more than max_items 3" in refusal(ask(app_around(), {"items": [ITEM] * 4})[0], 413)
    assert "max_body_mib 0.01" in refusal(ask(app_around(), {"items": [ITEM | {"answer": SECRET * 1000}]})[0], 413)


def test_other_routes_and_methods_are_json_errors() -> None:
    app, headers = app_around(keys=[key_config("ops", "key", "infer", "admin")]), {"Authorization": "Bearer key"}
    refusal(ask(app, {}, path=f"/{SECRET}", headers=headers)[0], 404)
    refusal(ask(app, {}, method="GET", headers=headers)[0], 405)
    refusal(ask(app, b"", path="/openapi.json", method="GET", headers=headers)[0], 404)
    refusal(ask(app, {}, headers={"Authorization": f"Bearer {SECRET}"})[0], 401)


@pytest.mark.parametrize(("error", "status", "said"), [
    (RewardError("items: answer 0 of 1 is too long", limit="max_length 8", got="9 tokens"), 422, "9 tokens, limit m"),
    (DataError("the model's chat template refuses a conversation", got=SECRET), 422, "chat template refuses"),
    (RuntimeError(SECRET), 500, "scoring failed"),
])
def test_failures_of_the_model_quote_nothing(error, status: int, said: str, caplog: pytest.LogCaptureFixture) -> None:
    def score(_requests):
        raise error

    logging.getLogger("ray.serve").propagate = True
    assert said in refusal(ask(app_around(score), {"items": [ITEM]})[0], status)
    assert "Mustermann" not in caplog.text and ("in score" in caplog.text) == (status == 500)


def test_a_score_that_is_no_number_is_500() -> None:
    assert "not a finite" in refusal(ask(app_around(lambda r: np.array([np.nan])), {"items": [ITEM]})[0], 500)


def test_one_request_too_many_is_503_with_retry_after_and_the_others_finish() -> None:
    gate, body = threading.Event(), {"items": [ITEM]}

    def score(requests):
        gate.wait(10)
        return np.zeros(len(requests))

    threading.Timer(0.2, gate.set).start()
    app = app_around(score)
    responses = ask(app, body, body, body, body)
    assert sorted(response.status_code for response in responses) == [200, 200, 503, 503]
    assert all(int(r.headers["Retry-After"]) >= 1 and refusal(r, 503) for r in responses if r.status_code == 503)
    assert ask(app, body)[0].status_code == 200  # room again
