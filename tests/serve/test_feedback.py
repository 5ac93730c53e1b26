"""POST /v1/feedback: only on one's own answers, texts only with consent, and no word of them in an error or a log."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from medrl.config.feedback import FeedbackConfig
from medrl.feedback import FeedbackStore
from serve.context import HEADER, RequestContexts
from serve.feedback import feedback_routes
from serve.request_ids import RequestIds
from serve.routes import OwnRoutes
from tests.identifiers import found_in, found_under, planted_identifiers
from tests.serve.clients import ask

ASK = [{"role": "user", "content": "感冒了怎么办？"}]
CONSENT = {"may_keep": True, "may_train": True}
TEXTS = {"messages": ASK, "answer": "不知道。", "comment": "short", "better_answer": "多休息。"}


@pytest.fixture
def config(tmp_path: Path) -> FeedbackConfig:
    return FeedbackConfig(url=f"sqlite:///{tmp_path}/feedback.db")


def call(config: FeedbackConfig | None, *bodies: Any, key: str = "a") -> list[httpx.Response]:
    """An answer to key "a", then feedback on it by `key`: each body is JSON, or bytes."""
    ids = RequestIds(b"secret")
    vllm = Starlette(routes=[Route("/v1/chat/completions", lambda _: PlainTextResponse("answer"))])
    app = RequestContexts(OwnRoutes(vllm, feedback_routes(config, ids)), ids)
    answer = ask(app, "GET", "/v1/chat/completions", headers={"Authorization": "Bearer a"})
    assert answer.text == "answer"
    named = {"request_id": answer.headers[HEADER]}
    sent = [body if isinstance(body, bytes) else json.dumps(named | body) for body in bodies]
    headers = {"Authorization": f"Bearer {key}"}
    return [ask(app, "POST", "/v1/feedback", headers=headers, content=content) for content in sent]


def stored(config: FeedbackConfig) -> list[dict[str, Any]]:
    return FeedbackStore(config).for_training(time.time())


def test_feedback_with_consent_is_there_for_training(config) -> None:
    first, second = call(config, {"rating": "up"}, {"rating": "down", **CONSENT, **TEXTS})
    assert (first.status_code, second.status_code) == (200, 200)
    assert not first.json()["texts_kept"] and second.json()["texts_kept"]
    assert stored(config) == [{"rating": "down", **TEXTS}]  # the later one in place of the earlier


def test_without_consent_no_text_is_stored(config, tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    words = " ".join(planted_identifiers())
    spoken = {"messages": [{"role": "user", "content": words}], "answer": words, "comment": words}
    assert call(config, {"rating": 5, **spoken})[0].status_code == 200
    assert not found_under(tmp_path) and not found_in(caplog.text)
    assert call(config, {"rating": 5, "may_keep": True, **spoken})[0].status_code == 200
    assert found_under(tmp_path) == planted_identifiers() and not found_in(caplog.text)


def test_only_the_key_that_was_answered_may_rate(config, tmp_path) -> None:
    for refused in (*call(config, {"rating": "up"}, key="b"), *call(config, {"rating": "up", "request_id": "f" * 40})):
        assert refused.status_code == 404 and refused.json()["error"]["code"] == 404
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("body", [
    b"", b"Zhang Wei", b"\xff\xfe", b'"Zhang Wei"', b"[" * 100_000, b'{"rating": "up"}', b'{"request_id": "x"}',
    {"rating": "Zhang Wei"}, {"rating": 6}, {"rating": None}, {"rating": ["up"]}, {"rating": "up", "Zhang Wei": 1},
    {"rating": "up", "request_id": "Zhang Wei"}, {"rating": "up", "request_id": 7}, {"rating": "up", "comment": 1},
    {"rating": "up", "may_train": True}, {"rating": "up", "may_keep": "yes"}, {"rating": "up", "messages": ["Zhang"]},
    {"rating": "up", "messages": None}, {"rating": "up", "messages": 7},
])
def test_what_cannot_be_used_is_refused_without_its_words(config, tmp_path, caplog, body) -> None:
    caplog.set_level(logging.DEBUG)
    (refused,) = call(config, body)
    assert refused.status_code == 400 and refused.json()["error"]["type"] == "bad_request"
    assert "Zhang" not in refused.text + caplog.text and not [*tmp_path.iterdir()]


def test_a_database_that_fails(config, tmp_path, caplog) -> None:
    call(config, {"rating": "up"})
    with sqlite3.connect(tmp_path / "feedback.db") as connection:
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON feedback BEGIN SELECT RAISE(ABORT, 'no'); END")
    (refused,) = call(config, {"rating": "up", **CONSENT, **TEXTS})
    assert refused.status_code == 503 and refused.headers["Retry-After"]
    assert str(tmp_path) not in refused.text and "多休息" not in refused.text + caplog.text


def test_where_feedback_is_off_the_route_is_not_ours() -> None:
    assert call(None, {"rating": "up"})[0].status_code == 404
