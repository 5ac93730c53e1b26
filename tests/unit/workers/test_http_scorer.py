"""The remote scorer against a real server on this machine, with faults put into its answers."""

from __future__ import annotations

import email.utils
import json
import socket
import time
from collections.abc import Iterator

import pytest

from medrl.config.rewards import HttpConfig, RewardPoolConfig, RewardSource
from medrl.errors import ConfigError, RewardError
from medrl.types import ScoreRequest
from medrl.workers.http_scorer import retry_after
from medrl.workers.scorers import make_scorer
from tests.scoring_server import Reply, Service, scoring_service

pytestmark = pytest.mark.heavy

SECRET = "Frau Mustermann, born 1961-02-03"
QUICK = {"attempts": 3, "max_wait": 0.02, "concurrency": 1, "batch_size": 2}
QUESTION = {"role": "user", "content": SECRET}
REQUESTS = [ScoreRequest((QUESTION,), SECRET + "!" * i, i != 3) for i in range(5)]
SCORES = [len(r.answer) for r in REQUESTS]


@pytest.fixture
def service() -> Iterator[Service]:
    with scoring_service() as running:
        yield running


def scorer_of(url: str, **http):
    source = RewardSource(name="gold", url=url, http=HttpConfig(**(QUICK | http)))
    return make_scorer(source, RewardPoolConfig(sources=[source]))


def failure(scorer, requests: list[ScoreRequest] = REQUESTS) -> str:
    """What the RewardError says; never a word of the prompts or answers."""
    with pytest.raises(RewardError, match="'gold'") as caught:
        scorer(requests)
    assert "Mustermann" not in str(caught.value)
    return str(caught.value)


def test_batches_keep_their_order_and_speak_the_protocol(service: Service) -> None:
    assert scorer_of(service.url)(REQUESTS).tolist() == SCORES
    assert [len(body["items"]) for body in service.requests] == [2, 2, 1]
    assert service.requests[1] == {"items": [
        {"messages": [QUESTION], "answer": SECRET + "!!", "ended": True},
        {"messages": [QUESTION], "answer": SECRET + "!!!", "ended": False},
    ]}
    assert "Authorization" not in service.headers[0]


def test_requests_in_flight_at_once_come_back_in_order(service: Service) -> None:
    service.replies = [Reply(delay=0.3), Reply(delay=0.1), Reply()]
    assert scorer_of(service.url, concurrency=3, timeout=5.0)(REQUESTS).tolist() == SCORES
    assert max(service.times) - min(service.times) < 0.3  # the third did not wait for the first


@pytest.mark.parametrize("replies", [
    [Reply(500), Reply(503)], [Reply(429)], [Reply(delay=0.5)], [Reply(502, "<html>", {"Content-Type": "text/html"})],
], ids=["500 and 503", "429", "too slow once", "a proxy's page"])
def test_passing_faults_are_tried_again(service: Service, replies: list[Reply]) -> None:
    service.replies = list(replies)
    assert scorer_of(service.url, timeout=0.2)(REQUESTS).tolist() == SCORES
    assert len(service.requests) == 3 + len(replies)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(service: Service, status: int) -> None:
    service.replies = [Reply(status, headers={"Retry-After": "0.3"})]
    assert scorer_of(service.url, max_wait=1.0)(REQUESTS[:1]).tolist() == SCORES[:1]
    assert service.times[1] - service.times[0] >= 0.3


def test_a_retry_after_beyond_the_limit_is_a_failure_at_once(service: Service) -> None:
    service.replies = [Reply(429, headers={"Retry-After": "3600"})]
    assert "HTTP 429, to be tried again after 3600 s" in failure(scorer_of(service.url))
    assert len(service.requests) == 1


def test_retry_after_as_a_date_and_as_nonsense() -> None:
    assert retry_after(email.utils.formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)
    assert retry_after(email.utils.formatdate(time.time() - 100, usegmt=True)) == 0
    assert [retry_after(value) for value in (None, "soon", "7", "-1")] == [None, None, 7.0, 0.0]


@pytest.mark.parametrize(("reply", "said"), [
    (Reply(500), "HTTP 500 (3 attempts)"), (Reply(delay=0.5), "ReadTimeout (3 attempts)"),
])
def test_faults_that_stay_end_as_an_error(service: Service, reply: Reply, said: str) -> None:
    service.replies = [reply] * 9
    assert said in failure(scorer_of(service.url, timeout=0.2))
    assert len(service.requests) == 3


@pytest.mark.parametrize(("reply", "said"), [
    (Reply(body='{"scores": [1.0]}'), "wrong number of scores"),
    (Reply(body='{"scores": [1.0, NaN]}'), "nan for answer 1 (1 of 2 answers)"),
    (Reply(body='{"scores": [1e999, 0]}'), "inf for answer 0"),
    (Reply(body='{"scores": [1e39, 0]}'), "inf for answer 0"),  # beyond float32
    (Reply(body=f'{{"scores": [0, {10**400}]}}'), "inf for answer 1"),
    (Reply(body=json.dumps({"scores": [0, SECRET]})), "not a number"),
    (Reply(body='{"scores": [0, null]}'), "not a number"),
    (Reply(body='{"scores": "ab"}'), "no list of scores"),
    (Reply(body='{"score": [0, 1]}'), "a body of another form"),
    (Reply(body="[1, 2]"), "a body of another form"),
    (Reply(body=SECRET), "a body of another form"),
    (Reply(body="not gzip at all", headers={"Content-Encoding": "gzip"}), "DecodingError"),
    (Reply(401, SECRET), "check http.api_key_env"),
    (Reply(413, SECRET), "lower http.batch_size"),
    (Reply(422, SECRET), "HTTP 422"),
    (Reply(307, "", {"Location": "http://127.0.0.1:1/elsewhere"}), "redirects are not followed"),
])
def test_a_wrong_answer_is_an_error_without_a_second_try(service: Service, reply: Reply, said: str) -> None:
    service.replies = [reply]
    assert said in failure(scorer_of(service.url))
    assert len(service.requests) == 1


def test_a_service_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/score"
    assert "cannot connect" in failure(scorer_of(url))


def test_the_breaker_opens_after_failures_in_a_row_and_closes_again(service: Service) -> None:
    scorer = scorer_of(service.url, attempts=1, breaker_failures=2, breaker_seconds=0.3)
    one = REQUESTS[:1]
    service.replies = [Reply(500), Reply(), Reply(500), Reply(500)]
    failure(scorer, one)
    assert scorer(one).tolist() == SCORES[:1]  # counted from the start again
    assert "HTTP 500" in failure(scorer, one) and "HTTP 500" in failure(scorer, one)
    assert "none is sent" in failure(scorer, one) and len(service.requests) == 4
    time.sleep(0.35)
    service.replies = [Reply(500)]
    assert "HTTP 500" in failure(scorer, one) and "none is sent" in failure(scorer, one)  # one more opens it again
    time.sleep(0.35)
    assert scorer(one).tolist() == SCORES[:1] and len(service.requests) == 6


def test_an_open_breaker_wakes_those_who_wait(service: Service) -> None:
    """One batch fails for good while the other waits for its second try, half a minute away."""
    service.replies = [Reply(503, headers={"Retry-After": "30"}), Reply(422, delay=0.1)]
    started = time.monotonic()
    failure(scorer_of(service.url, concurrency=2, max_wait=60.0))
    assert time.monotonic() - started < 15 and len(service.requests) == 2


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("GOLD_KEY", "s3cret-token")
    service.replies = [Reply(), Reply(403)]
    scorer = scorer_of(service.url, api_key_env="GOLD_KEY")
    scorer(REQUESTS[:1])
    assert service.headers[0]["Authorization"] == "Bearer s3cret-token"
    assert "s3cret-token" not in failure(scorer) + caplog.text and "Mustermann" not in caplog.text


@pytest.mark.parametrize("value", [None, "", "two\nlines-s3cret", "schlüssel-s3cret"])
def test_a_key_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("GOLD_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("GOLD_KEY", value)
    with pytest.raises(ConfigError, match="GOLD_KEY") as caught:
        scorer_of("http://127.0.0.1:1/score", api_key_env="GOLD_KEY")
    assert "s3cret" not in str(caught.value)
