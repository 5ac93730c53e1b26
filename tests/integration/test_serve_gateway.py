"""Who gets in, how much of it, and what the others hear: on the real Ray Serve and vLLM."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.config.keys import make_key
from medrl.config.serving import ServeConfig
from serve.scopes import INFER, OPEN
from tests.identifiers import found_in, planted_identifiers
from tests.services import Running, running_service

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
RUNNING, QUEUED = 2, 2
CLIENTS = 10 * (RUNNING + QUEUED)
SETTINGS = [
    "dtype=float32", "kv_cache_gib=0.25", "max_model_len=128", f"admission.max_running={RUNNING}",
    f"admission.max_queued={QUEUED}", "max_body_mib=0.05",
]
QUOTAS = {"small": {"requests_per_minute": 3}, "wordy": {"tokens_per_minute": 20}}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SECRETS = planted_identifiers()


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    """The keys by their ids; `entries` of them for the key file."""
    made = {name: make_key(name, ["admin"] if name == "ops" else ["infer"]) for name in ("ward", "ops", *QUOTAS)}
    entries = [yaml.safe_load(entry)[0] | {"quotas": QUOTAS.get(name)} for name, (_, entry) in made.items()]
    return {name: key for name, (key, _) in made.items()} | {"entries": json.dumps(entries)}


@pytest.fixture(scope="module")
def service(tiny_run: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(keys["entries"])
    file.chmod(0o600)
    command = ["serve", str(tiny_run / "policy"), f"key_file={file}", *SETTINGS]
    with running_service(command, os.environ) as running:
        yield running


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def completion(**options: Any) -> dict[str, Any]:
    return {"model": "medrl", "prompt": "What helps?", "max_tokens": 8, "temperature": 0, "ignore_eos": True} | options


def is_error(answer: httpx.Response, status: int) -> bool:
    error = answer.json()["error"]
    return answer.status_code == status == error["code"] and {"message", "type", "param"} <= set(error)


def routes(folder: Path) -> set[tuple[str, str]]:
    """Read from the tables of vLLM's app and of ours, so that a new one cannot be forgotten."""
    from vllm.entrypoints.launchers.app import build_app

    from medrl.config.feedback import FeedbackConfig
    from serve.launch import vllm_arguments
    from serve.request_ids import RequestIds
    from serve.routes import own_routes
    from serve.swap.gate import Gate

    config = ServeConfig(model="any", feedback=FeedbackConfig(url=f"sqlite:///{folder}/f.db"))
    app = build_app(vllm_arguments(config, "any"), ("generate",))
    table = [*app.routes, *own_routes(config, RequestIds(b""), Gate(), None)]
    found = {(method, route.path) for route in table for method in getattr(route, "methods", None) or ("GET",)}
    return {(method, path) for method, path in found if method != "HEAD"}  # GET without the error's words


def test_every_route_asks_for_a_key_with_its_scope(service: Running, keys: dict[str, str], tmp_path: Path) -> None:
    table = routes(tmp_path)
    assert {("POST", CHAT), ("POST", "/invocations"), ("POST", "/v1/feedback"), ("GET", "/metrics")} <= table
    with httpx.Client(base_url=service.url, timeout=60) as client:
        for method, path in sorted(table):
            if path in OPEN or path == "/playground/settings.json":  # what the page shows before it has a key
                continue
            for key in (None, "wrong"):
                assert is_error(client.request(method, path, headers=headers(key) if key else {}), 401), (method, path)
            other = keys["ops"] if path in INFER else keys["ward"]
            assert is_error(client.request(method, path, headers=headers(other)), 403), (method, path)
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models", headers=headers(keys["ward"])).status_code == 200
        assert client.get("/metrics", headers=headers(keys["ops"])).status_code == 200


FIELDS = ("model", "messages", "prompt", "max_tokens", "temperature", "n", "stop", "stream", "logprobs", "seed",
          "tools", "response_format", "logit_bias", "echo", "stream_options", "role", "content")
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(SECRETS)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS), inner))
BODY = st.dictionaries(st.sampled_from(FIELDS), VALUE).map(lambda value: json.dumps(value).encode())
TURNED = st.sampled_from(FIELDS).flatmap(lambda field: VALUE.map(
    lambda value: json.dumps(completion(messages=[{"role": "user", "content": "x"}], max_tokens=1) | {field: value})))
RAW = st.binary(max_size=200) | st.integers(0, 60_000).map(lambda depth: b"[" * depth)


def test_fuzzed_bodies_are_4xx_and_quote_nothing(service: Running, keys: dict[str, str]) -> None:
    with httpx.Client(base_url=service.url, timeout=60, headers=headers(keys["ward"])) as client:

        @settings(max_examples=40)
        @given(BODY | TURNED.map(str.encode) | RAW, st.sampled_from([CHAT, COMPLETIONS, "/invocations", "/tokenize"]))
        def fuzz(body: bytes, path: str) -> None:
            answer = client.post(path, content=body)
            assert answer.status_code == 200 or is_error(answer, answer.status_code) and answer.status_code < 500
            assert answer.status_code == 200 or not found_in(answer.text)

        fuzz()


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/invocations"])
def test_what_was_asked_is_in_no_error(service: Running, keys: dict[str, str], path: str) -> None:
    text = " ".join(SECRETS[:8])
    chat = {"messages": [{"role": "user", "content": text}]}
    wrong = [
        completion(prompt=text, n="x" + text), completion(prompt={"a": text}), completion(model=text),
        completion(prompt=text, stop=[[text]]), completion(prompt=text * 9), completion(**chat, temperature=text),
        completion(**chat, tools=[{"type": text}]), completion(**chat, response_format={"type": text}),
        completion(**chat, tool_choice={"type": "function", "function": {"name": text}}),
        completion(prompt=text, structured_outputs={"regex": f"({text}"}), {text: text}, {"messages": {text: text}},
        completion(prompt=text, logit_bias={text: 1}), completion(prompt=text, echo=True, stream_options={"a": text}),
    ]
    with httpx.Client(base_url=service.url, timeout=60, headers=headers(keys["ward"])) as client:
        answers = [client.post(path, json=body) for body in wrong]
        answers.append(client.post(path, json=completion(prompt="x" * 60_000)))
        answers.append(client.get(f"/v1/{text}", headers=headers(keys["ops"])))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) > len(wrong) / 2 and all(is_error(answer, answer.status_code) for answer in refused)
    assert all(answer.status_code < 500 for answer in refused)
    assert not found_in("".join(answer.text + str(answer.headers) for answer in refused))
    assert answers[-2].status_code == 413 and answers[-1].status_code == 404


def test_words_that_help(service: Running, keys: dict[str, str]) -> None:
    with httpx.Client(base_url=service.url, timeout=60, headers=headers(keys["ward"])) as client:
        said = [client.post(COMPLETIONS, json=completion(**options)).json()["error"]["message"] for options in (
            {"prompt": [1] * 200}, {"max_tokens": 9999}, {"temperature": 3}, {"n": 0}, {"prompt": None})]
    assert "maximum context length is 128 tokens" in said[0] and "max_model_len=128" in said[1]
    assert said[2] == "temperature must be in [0, 2]" and said[3].startswith("n") and "prompt" in said[4], said


def test_quotas_of_requests_and_of_tokens(service: Running, keys: dict[str, str]) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        small = [client.post(COMPLETIONS, json=completion(), headers=headers(keys["small"])) for _ in range(4)]
        assert [answer.status_code for answer in small] == [200, 200, 200, 429]
        assert is_error(small[3], 429) and 1 <= int(small[3].headers["Retry-After"]) <= 60
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in small] == ["2", "1", "0", "0"]
        wordy = [client.post(COMPLETIONS, json=completion(max_tokens=16, stream=stream), headers=headers(keys["wordy"]))
                 for stream in (False, True)]
        assert [answer.status_code for answer in wordy] == [200, 429]


def test_ten_times_more_than_there_is_room_for(service: Running, keys: dict[str, str]) -> None:
    """Refusals in OpenAI's shape, accepted requests finish, health answers, and memory stays flat."""

    async def client(http: httpx.AsyncClient, number: int) -> list[httpx.Response]:
        options = completion(max_tokens=32, stream=number % 2 == 1)
        return [await http.post(COMPLETIONS, json=options, headers=headers(keys["ward"])) for _ in range(3)]

    async def health(http: httpx.AsyncClient, over: asyncio.Event) -> list[int]:
        statuses = []
        while not over.is_set():
            statuses.append((await http.get("/health", timeout=10)).status_code)
            await asyncio.sleep(0.1)
        return statuses

    async def overload() -> tuple[list[httpx.Response], list[int]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=service.url, timeout=120, limits=limits) as http:
            over = asyncio.Event()
            watching = asyncio.create_task(health(http, over))
            answers = await asyncio.gather(*(client(http, number) for number in range(CLIENTS)))
            over.set()
            return [answer for each in answers for answer in each], await watching

    asyncio.run(overload())  # what is made once is made
    before = memory(service)
    for _ in range(2):
        answers, statuses = asyncio.run(overload())
        accepted = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(answers) == 3 * CLIENTS and len(accepted) >= RUNNING + QUEUED and len(refused) > len(answers) / 4
        assert all(is_error(answer, 503) and int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        for answer in accepted:
            assert "[DONE]" in answer.text or answer.json()["usage"]["completion_tokens"] == 32
        assert len(statuses) > 3 and set(statuses) == {200}
    after = memory(service)
    print(f"accepted {len(accepted)}, refused {len(refused)}; memory {before / 2**20:.0f} -> {after / 2**20:.0f} MiB")
    assert after < 1.05 * before


def memory(service: Running) -> int:
    """Bytes of all processes of the service that belong to nobody else."""
    command = psutil.Process(service.process.pid)
    return sum(process.memory_info().rss for process in [command, *command.children(recursive=True)])
