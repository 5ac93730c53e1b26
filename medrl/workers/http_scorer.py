"""A remote scorer over HTTP (protocol: docs/rewards.md). No text of a request or an answer goes into an error."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from tenacity.nap import sleep_using_event

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.environment import read_secret
from medrl.errors import RewardError
from medrl.types import ScoreRequest
from medrl.workers.breaker import Breaker
from medrl.workers.score_checks import checked_scores

REMEDIES = {
    401: "check http.api_key_env",
    403: "check http.api_key_env",
    404: "check the path of the url",
    413: "lower http.batch_size",
    422: "check that the service speaks the protocol of docs/rewards.md, and its limit on the length of an answer",
}


def http_scorer(source: RewardSource, _pool: RewardPoolConfig) -> Callable[[list[ScoreRequest]], np.ndarray]:
    """The service at `source.url`. Raises ConfigError when the API key's environment variable is not set."""
    return HttpScorer(source)


class Passing(Exception):
    """A failure that another try may cure, after `wait` seconds if the service named them."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class HttpScorer:
    """Batches, some of them in flight at once; each is tried again while that can help, and else raises RewardError."""

    def __init__(self, source: RewardSource) -> None:
        assert source.url is not None
        self.name, self.url, self.http = source.name, source.url, source.http
        self.client = httpx.Client(headers=_authorization(source), timeout=self.http.timeout, follow_redirects=False)
        self.breaker = Breaker(self.http.breaker_failures, self.http.breaker_seconds)
        self.back_off = wait_exponential_jitter(multiplier=0.5, max=self.http.max_wait)
        self.retrying = Retrying(
            retry=retry_if_exception_type(Passing),
            stop=stop_after_attempt(self.http.attempts),
            wait=self._wait,
            sleep=sleep_using_event(self.breaker.opened),  # an open breaker wakes all who wait for their next try
            reraise=True,
        )

    def __call__(self, requests: list[ScoreRequest]) -> np.ndarray:
        """[n] float32. When a batch fails for good, those that have not begun are left out."""
        size = self.http.batch_size
        batches = [requests[i : i + size] for i in range(0, len(requests), size)]
        with ThreadPoolExecutor(self.http.concurrency) as pool:
            return np.concatenate(list(pool.map(self._score, batches)))

    def _score(self, batch: list[ScoreRequest]) -> np.ndarray:
        try:
            scores = self.retrying(self._ask, batch)
        except (Passing, RewardError) as error:
            self.breaker.failed()
            if isinstance(error, RewardError):
                raise
            raise self._failure(f"{error} ({self.http.attempts} attempts)", "check that the service runs") from None
        self.breaker.succeeded()
        return scores

    def _ask(self, batch: list[ScoreRequest]) -> np.ndarray:
        """One request. Raises Passing when another try may help, RewardError when none can."""
        if self.breaker.is_open():
            raise self._failure(
                f"the last requests failed; none is sent for {self.http.breaker_seconds:g} s",
                "see the first error; check that the service runs",
            )
        items = [{"messages": list(r.messages), "answer": r.answer, "ended": r.ended} for r in batch]
        try:
            response = self.client.post(self.url, json={"items": items})
        except httpx.ConnectError as error:
            raise Passing(f"cannot connect: {error}") from None
        except httpx.TransportError as error:
            raise Passing(type(error).__name__) from None
        except httpx.RequestError as error:
            raise self._failure(type(error).__name__, "check the service") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise self._passing(response)
        if not response.is_success:
            remedy = "give the address it redirects to: redirects are not followed" if response.is_redirect else ""
            raise self._failure(
                f"HTTP {response.status_code}", remedy or REMEDIES.get(response.status_code, "check the service")
            )
        return checked_scores(self.name, self._scores(response), len(batch))

    def _passing(self, response: httpx.Response) -> Passing | RewardError:
        reason, wait = f"HTTP {response.status_code}", retry_after(response.headers.get("Retry-After"))
        if wait is not None and wait > self.http.max_wait:
            return self._failure(f"{reason}, to be tried again after {wait:.0f} s", "raise http.max_wait")
        return Passing(reason, wait)

    def _scores(self, response: httpx.Response) -> object:
        try:
            return response.json()["scores"]
        except (ValueError, KeyError, TypeError):
            raise self._failure("a body of another form", 'the service must answer {"scores": [...]}') from None

    def _wait(self, state: RetryCallState) -> float:
        """Seconds to the next try: what the service asks for, else exponential back-off with jitter."""
        error = state.outcome.exception() if state.outcome else None
        return error.wait if isinstance(error, Passing) and error.wait is not None else self.back_off(state)

    def _failure(self, got: str, remedy: str) -> RewardError:
        return RewardError(f"reward source {self.name!r}: no scores from {self.url}", got=got, remedy=remedy)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; None without one that can be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _authorization(source: RewardSource) -> dict[str, str]:
    if source.http.api_key_env is None:
        return {}
    return {"Authorization": f"Bearer {read_secret(source.http.api_key_env, f'reward source {source.name!r}')}"}
