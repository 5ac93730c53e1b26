"""Clients that never stop asking, and check that every answer is whole and from the version that it names."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping

import httpx

from tests.versions import PROMPT, TOKENS

ASK = {"model": "medrl", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


class Clients:
    """Four kinds of clients in threads, until the block ends."""

    def __init__(
        self, url: str, key: str, answers: Mapping[str, str], checksums: Mapping[str, str], count: int = 8
    ) -> None:
        """`answers` and `checksums`: by the version's number."""
        self.answers, self.checksums = answers, checksums
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=180)
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._end = threading.Event()
        kinds = [self.plain, self.streamed, self.several, self.labelled]
        self._threads = [threading.Thread(target=self._run, args=(kinds[i % len(kinds)],)) for i in range(count)]

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
        answer = self.client.post("/v1/completions", json=ASK)
        self._check(answer, [choice["text"] for choice in answer.raise_for_status().json()["choices"]])

    def several(self) -> None:
        """Three prompts: three requests to the engine, one answer."""
        answer = self.client.post("/v1/completions", json=ASK | {"prompt": [PROMPT] * 3})
        self._check(answer, [choice["text"] for choice in answer.raise_for_status().json()["choices"]])

    def streamed(self) -> None:
        with self.client.stream("POST", "/v1/completions", json=ASK | {"stream": True}) as answer:
            lines = [line[6:] for line in answer.raise_for_status().iter_lines() if line.startswith("data: {")]
        self._check(answer, ["".join(json.loads(line)["choices"][0]["text"] for line in lines)])

    def labelled(self) -> None:
        """The label that the engine puts on what it generates."""
        sampling = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        body = {"model": "medrl", "token_ids": [5, 6, 7], "sampling_params": sampling}
        answer = self.client.post("/inference/v1/generate", json=body)
        spans = answer.raise_for_status().json()["choices"][0]["weight_versions"]
        number = answer.headers["x-medrl-version"]
        if [span["version"] for span in spans] != [f"{number}@{self.checksums[number]}"]:
            self.failures.append(f"version {number}: labels {spans}")
        self.versions[number] += 1

    def _check(self, answer: httpx.Response, texts: list[str]) -> None:
        number = answer.headers["x-medrl-version"]
        if set(texts) != {self.answers[number]}:
            self.failures.append(f"version {number}: {texts}, expected {self.answers[number]!r}")
        self.versions[number] += 1

    def _run(self, ask) -> None:
        while not self._end.is_set():
            try:
                ask()
            except Exception as error:
                self.failures.append(f"{ask.__name__}: {error!r}")
