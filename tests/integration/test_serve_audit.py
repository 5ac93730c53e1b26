"""The audit of a real service: what it keeps of answers of every kind, and what tampering with a record leads to."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine

from medrl.lora.identity import model_hash
from tests.services import ROOT, running_service

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
KEY = "0123456789abcdef" * 4
ENVIRONMENT = os.environ | {"MEDRL_AUDIT_KEY": KEY}
SETTINGS = ["dtype=float32", "kv_cache_gib=0.25", "max_model_len=128"]
MESSAGES = [{"role": "user", "content": "感冒了怎么办?"}]
CHAT = {"model": "medrl", "messages": MESSAGES, "max_tokens": 8, "ignore_eos": True}
PLAIN = {"model": "medrl", "prompt": "What helps?", "max_tokens": 8, "ignore_eos": True}
# Requests of every kind: route, body, and the finish reason and tokens of each answer.
ASKED = {
    "chat": ("/v1/chat/completions", CHAT, [("length", 8)]),
    "streamed chat": ("/v1/chat/completions", CHAT | {"stream": True}, [("length", 8)]),
    "two answers": ("/v1/chat/completions", CHAT | {"n": 2}, [("length", 8)] * 2),
    "two streamed answers": ("/v1/chat/completions", CHAT | {"n": 2, "stream": True}, [("length", 8)] * 2),
    "plain": ("/v1/completions", PLAIN | {"temperature": 0.5}, [("length", 8)]),
    "two prompts": ("/v1/completions", PLAIN | {"prompt": ["Rest?", "Water?"], "n": 2}, [("length", 8)] * 4),
    "tokens": ("/v1/completions", PLAIN | {"prompt": [40, 41, 42]}, [("length", 8)]),
    "echo": ("/v1/completions", PLAIN | {"echo": True, "max_tokens": 0, "logprobs": 1}, [("length", 1)]),
    "responses": ("/v1/responses", {"model": "medrl", "input": "Rest?", "max_output_tokens": 4,
                                    "ignore_eos": True}, [("length", 4)]),
    "messages": ("/v1/messages", {"model": "medrl", "messages": MESSAGES, "max_tokens": 4}, None),
    "beam search": ("/v1/completions", PLAIN | {"use_beam_search": True, "n": 2}, []),
    "too long": ("/v1/completions", PLAIN | {"max_tokens": 999}, []),
}


@dataclass
class Audited:
    """A service that has answered and ended: its answers by what was asked, and the audit's settings."""

    answers: dict[str, httpx.Response]
    settings: list[str]
    url: str

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medrl", "audit", *words, *self.settings]
        return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)

    def records(self) -> dict[str, list[dict[str, str]]]:
        """The exported records by what was asked, by choice."""
        names = {answer.headers["x-request-id"]: name for name, answer in self.answers.items()}
        assert len(names) == len(self.answers)
        found = defaultdict(list)
        for row in csv.DictReader(io.StringIO(self.command("export", "--format=csv").stdout)):
            found[names[row["request_id"]]].append(row)
        return {name: sorted(rows, key=lambda row: int(row["choice"])) for name, rows in found.items()}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def audited(request: pytest.FixtureRequest, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    folder = tmp_path_factory.mktemp("audit")
    url = f"sqlite:///{folder}/audit.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    settings = [f"audit.url={url}", f"audit.spill_dir={folder}/spill"]
    with running_service(["serve", str(tiny_run / "policy"), *SETTINGS, *settings], ENVIRONMENT) as service:
        answers = dict(_ask(httpx.Client(base_url=service.url, timeout=120)))
        service.process.terminate()
        service.process.wait(120)
    return Audited(answers, settings, url)


def _ask(client: httpx.Client) -> Iterator[tuple[str, httpx.Response]]:
    for name, (path, body, _) in ASKED.items():
        yield name, client.post(path, json=body, headers={"x-request-id": "theirs"})
    with client.stream("POST", "/v1/completions", json=PLAIN | {"stream": True, "max_tokens": 100}) as answer:
        next(answer.iter_lines())
    yield "broken off", answer


def test_every_answer_is_in_the_audit(audited: Audited, tiny_run: Path) -> None:
    records, checksum = audited.records(), model_hash(tiny_run / "policy")
    assert {row["weight_checksum"] for rows in records.values() for row in rows} == {checksum}
    for name, (_, _, ends) in ASKED.items():
        rows = records.get(name, [])
        assert audited.answers[name].status_code == (400 if ends == [] else 200), name
        assert [int(row["choice"]) for row in rows] == [*range(len(rows))], name
        if ends is not None:
            assert [(row["finish_reason"], int(row["completion_tokens"])) for row in rows] == ends, name
    [row] = records["broken off"]
    assert row["finish_reason"] == "abort" and 1 <= int(row["completion_tokens"]) < 100


def test_texts_can_be_held_against_their_records(audited: Audited) -> None:
    def digest(purpose: str, text: str) -> str:
        return hmac.new(KEY.encode(), f"medrl audit {purpose}\0{text}".encode(), hashlib.sha256).hexdigest()

    records = audited.records()
    choices = audited.answers["two prompts"].json()["choices"]
    assert [row["answer_hmac"] for row in records["two prompts"]] == [digest("answer", c["text"]) for c in choices]
    asked = [digest("prompt", text) for text in ("Rest?", "Rest?", "Water?", "Water?")]
    assert [row["prompt_hmac"] for row in records["two prompts"]] == asked
    [chat] = records["chat"]
    text = f"<|im_start|>user\n{MESSAGES[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    assert chat["prompt_hmac"] == digest("prompt", text)
    message = audited.answers["chat"].json()["choices"][0]["message"]["content"]
    assert chat["answer_hmac"] == digest("answer", message)


def test_a_request_is_found_by_the_id_of_its_answer(audited: Audited) -> None:
    answer = audited.answers["two answers"]
    shown = audited.command("show", answer.headers["x-request-id"]).stdout
    assert shown.count('"request_id"') == 2 and answer.json()["id"].endswith(answer.headers["x-request-id"])


def test_tampering_with_one_record_is_found(audited: Audited) -> None:
    whole = audited.command("verify")
    assert whole.returncode == 0 and " records, all as they were written" in whole.stdout
    engine = create_engine(audited.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        changed = "UPDATE audit_records SET completion_tokens = completion_tokens + 1 WHERE seq = 4"
        assert connection.exec_driver_sql(changed).rowcount == 1
    engine.dispose()
    found = audited.command("verify")
    assert found.returncode == 3 and "record 4" in found.stderr and "changed" in found.stderr
