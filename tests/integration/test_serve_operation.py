"""`medrl serve` with two replicas in trouble: clients that leave, an engine that dies, a service that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.services import Running, running_service

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
VARIABLE, KEY = "MEDRL_TEST_CHAT_KEY", "tiny-key"
LONG = 2000  # tokens: seconds of work
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def service(tiny_run: Path) -> Iterator[Running]:
    model = tiny_run / "policy"
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": LONG + 100}))
    command = ["serve", str(model), f"--api-key-env={VARIABLE}", "dtype=float32", "kv_cache_gib=0.25", "replicas=2"]
    with running_service(command, os.environ | {VARIABLE: KEY, "RAY_metrics_report_interval_ms": "1000"}) as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
        yield client


def body(max_tokens: int, **more) -> dict:
    message = {"role": "user", "content": "感冒了怎么办?"}
    return {"model": "medrl", "messages": [message], "max_tokens": max_tokens, "ignore_eos": True} | more


def total(client: httpx.Client, sample_name: str, **labels: str) -> float:
    """The sum over all replicas, as a scrape shows it."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(sample.value for family in families for sample in family.samples
               if sample.name == sample_name and labels.items() <= sample.labels.items())


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def engines(service: Running) -> list[int]:
    found = subprocess.run(["pgrep", "-s", str(service.process.pid), "-f", "VLLM::EngineCore"], capture_output=True)
    return [int(word) for word in found.stdout.split()]


def test_a_scrape_shows_all_replicas(client: httpx.Client) -> None:
    for _ in range(8):
        assert client.post(CHAT, json=body(3)).status_code == 200
    labels = {"route": CHAT, "status": "200", "key": "default", "version": "unregistered"}
    assert eventually(lambda: total(client, "ray_medrl_requests_total", **labels) == 8)
    assert total(client, "ray_medrl_completion_tokens_total") == 24
    assert total(client, "ray_vllm_generation_tokens_total") == 24 + 2  # each replica proved that it answers
    assert httpx.get(f"{client.base_url}/metrics").status_code == 401


def test_a_client_that_goes_away_stops_its_generation(client: httpx.Client) -> None:
    before = total(client, "ray_medrl_completion_tokens_total")
    with client.stream("POST", CHAT, json=body(LONG, stream=True)) as answer:
        next(answer.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=body(LONG), timeout=0.5)
    assert eventually(lambda: total(client, "ray_medrl_requests_total", status="499") == 2)
    assert eventually(lambda: total(client, "ray_vllm_num_requests_running") == 0)
    assert total(client, "ray_medrl_completion_tokens_total") - before < LONG


def test_a_replica_whose_engine_died_is_replaced(service: Running, client: httpx.Client) -> None:
    killed, other = engines(service)
    os.kill(killed, signal.SIGKILL)
    time.sleep(1)
    for answer in [client.post(CHAT, json=body(3)) for _ in range(8)]:
        assert answer.status_code == 200 or (answer.status_code == 503 and int(answer.headers["retry-after"]) > 0)
    assert eventually(lambda: other in (now := engines(service)) and len(now) == 2 and killed not in now, 150)
    assert eventually(lambda: {client.post(CHAT, json=body(3)).status_code for _ in range(8)} == {200}, 60)


def test_the_end_waits_for_what_runs_and_refuses_what_comes(service: Running, client: httpx.Client) -> None:
    with client.stream("POST", CHAT, json=body(LONG, stream=True)) as answer:
        lines = answer.iter_lines()
        next(lines)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        late = client.post(CHAT, json=body(3))
        assert late.status_code == 503 and int(late.headers["retry-after"]) > 0
        said = list(lines)
    assert said[-2:] == ["data: [DONE]", ""] and sum('"content"' in line for line in said) > LONG / 2
    assert service.process.wait(60) == 128 + signal.SIGTERM
