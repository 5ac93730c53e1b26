"""Clients that never stop asking, and check that every answer is whole and from the version that it names."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping

import httpx

from tests.versions import PROMPT, TOKENS

ASK = {
    "model": "medrl", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
    "return_token_ids": True,
}


class Clients:
    """Clients of three kinds, each in a thread, until the block ends."""

    def __init__(self, url: str, key: str, answers: Mapping[str, list[int]], count: int = 8) -> None:
        """`answers`: the right tokens, by the version's number."""
        self.answers = answers
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=180)
        self.answered: dict[str, str] = {}  # request → version
        self.failures: list[str] = []
        self._end = threading.Event()
        kinds = [self.plain, self.streamed, self.several]
        self._threads = [threading.Thread(target=self._run, args=(kinds[i % len(kinds)],)) for i in range(count)]

    @property
    def versions(self) -> Counter[str]:
        """How many answers each version gave."""
        return Counter(self.answered.values())

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.client.close()

    def plain(self) -> None:
        self._ask({})

    def several(self) -> None:
        """Three prompts: three requests to the engine, one answer."""
        self._ask({"prompt": [PROMPT] * 3})

    def streamed(self) -> None:
        with self.client.stream("POST", "/v1/completions", json=ASK | {"stream": True}) as answer:
            lines = [line[6:] for line in answer.raise_for_status().iter_lines() if line.startswith("data: {")]
        self._check(answer, [[token for line in lines for token in json.loads(line)["choices"][0]["token_ids"]]])

    def _ask(self, changes: dict[str, object]) -> None:
        answer = self.client.post("/v1/completions", json=ASK | changes).raise_for_status()
        self._check(answer, [choice["token_ids"] for choice in answer.json()["choices"]])

    def _check(self, answer: httpx.Response, choices: list[list[int]]) -> None:
        number = answer.headers["x-medrl-version"]
        if any(choice != self.answers[number] for choice in choices):
            self.failures.append(f"not version {number}: {choices}, expected {self.answers[number]}")
        self.answered[answer.headers["x-request-id"]] = number

    def _run(self, ask: Callable[[], None]) -> None:
        while not self._end.is_set():
            try:
                ask()
            except Exception as error:
                self.failures.append(f"{ask.__name__}: {error!r}")
