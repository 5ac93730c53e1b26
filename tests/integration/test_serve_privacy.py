"""200 planted identifiers in requests that succeed, are refused, break off and crash: none is written anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.identifiers import found_in, found_under, planted_identifiers
from tests.integration.crashing import IN_ENGINE, IN_HANDLER, install
from tests.services import ROOT, running_service

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
KEY = "tiny-key"
NAMES = planted_identifiers()
BATCHES = [NAMES[i : i + 4] for i in range(0, 200, 4)]
PLAIN, CHAT = "/v1/completions", "/v1/chat/completions"
Body = dict[str, Any]


def plain(names: list[str], **changes: Any) -> tuple[str, Body]:
    return PLAIN, {"model": "medrl", "prompt": " ".join(names), "max_tokens": 2} | changes


def chat(names: list[str], **changes: Any) -> tuple[str, Body]:
    messages = [{"role": "system", "content": f"病人:{names[0]}"}, {"role": "user", "content": " ".join(names[1:])}]
    return CHAT, {"model": "medrl", "messages": messages, "max_tokens": 2} | changes


def schema(names: list[str]) -> Body:
    return {"type": "object", "properties": {name: {"enum": names} for name in names}}


ANSWERED: list[Callable[[list[str]], tuple[str, Body]]] = [
    lambda names: plain(names),
    lambda names: plain(names, echo=True, stop=names, user=names[0]),
    lambda names: plain(names, prompt=names[:2], n=2, stream=True, logprobs=1),
    lambda names: chat(names),
    lambda names: chat(names, stream=True, stop=names, metadata={names[0]: names[1]}),
    lambda names: chat(names, bad_words=names, safety_identifier=names[2]),
    lambda names: chat(names, response_format={"type": "json_schema",
                                               "json_schema": {"name": "a", "schema": schema(names)}}),
    lambda names: chat(names, tools=[{"type": "function", "function": {
        "name": "look_up", "description": names[0], "parameters": schema(names)}}], tool_choice="none"),
    lambda names: ("/tokenize", {"model": "medrl", "prompt": " ".join(names)}),
]
REFUSED: list[Callable[[list[str]], tuple[str, Body]]] = [
    lambda names: plain(names, model=" ".join(names)),
    lambda names: chat(names, model=" ".join(names)),
    lambda names: plain(names, prompt={"text": names}),
    lambda names: plain(names, max_tokens=" ".join(names)),
    lambda names: plain(names, prompt=" ".join(names) * 20),
    lambda names: chat(names, messages=" ".join(names)),
    lambda names: chat(names, messages=[{"role": " ".join(names), "content": [{"type": names[0], names[1]: 1}]}]),
    lambda names: chat(names, temperature=names),
    lambda names: plain(names, logit_bias={name: 1 for name in names}),
    lambda names: plain(names, structured_outputs={"regex": f"({'|'.join(names)}"}),
    lambda names: plain(names, structured_outputs={"grammar": " ".join(names)}),
    lambda names: chat(names, response_format={"type": " ".join(names)}),
    lambda names: chat(names, tools=names),
    lambda names: chat(names, tool_choice={"type": "function", "function": {"name": names}}),
    lambda names: chat(names, chat_template="{{ '" + " ".join(names) + "' | int + }}"),
    lambda names: chat(names, use_beam_search=True),
    lambda names: (f"/v1/responses/{'-'.join(names)}/cancel", {"id": names}),
    lambda names: (f"/nowhere/{' '.join(names)}", {}),
]


@dataclass
class Written:
    """All that a service left behind: its folder (logs, audit, temporary files), what it said, errors and metrics."""

    folder: Path
    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    metrics: str = ""
    export: str = ""

    def note(self, answer: httpx.Response) -> None:
        self.statuses[answer.status_code] += 1
        self.headers.append(str(answer.headers.multi_items()))
        if answer.status_code >= 400 or '"error": {' in answer.text or '"error":{' in answer.text:
            self.errors.append(answer.text)

    def check(self) -> None:
        """None of the identifiers is anywhere."""
        assert found_in("\n".join(self.errors)) == []
        assert found_in("\n".join(self.headers)) == []
        assert found_in(self.metrics) == [] and found_in(self.export) == []
        assert found_under(self.folder) == []


def environment(folder: Path) -> dict[str, str]:
    """All that the service writes goes below `folder`."""
    return os.environ | {
        "MEDRL_TEST_CHAT_KEY": KEY, "MEDRL_AUDIT_KEY": "k" * 40, "HOME": str(folder), "TMPDIR": str(folder),
        "RAY_TMPDIR": str(folder), "PYTHONPATH": f"{folder}/plugin:{ROOT}",
        "VLLM_MAX_STOP_STRINGS": "999",
    }


def command(folder: Path, model: Path) -> list[str]:
    return ["serve", str(model), "--api-key-env=MEDRL_TEST_CHAT_KEY", "dtype=float32", "kv_cache_gib=0.25",
            "max_model_len=128", *audit(folder), f"logs.file={folder}/requests.jsonl"]


def audit(folder: Path) -> list[str]:
    return [f"audit.url=sqlite:///{folder}/audit/audit.db", f"audit.spill_dir={folder}/audit/spill"]


def export(folder: Path) -> str:
    words = [sys.executable, "-m", "medrl", "audit", "export", *audit(folder)]
    return subprocess.run(words, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def written(tiny_run: Path) -> Iterator[Written]:
    """By a service that was asked everything, ended by a crash of its engine."""
    folder = Path(tempfile.mkdtemp(prefix="pv", dir="/tmp"))  # short: a socket's path has at most 107 bytes
    install(folder / "plugin")
    found = Written(folder)
    try:
        with (
            running_service(command(folder, tiny_run / "policy"), environment(folder)) as service,
            httpx.Client(base_url=service.url, timeout=120, headers={"Authorization": f"Bearer {KEY}"}) as client,
        ):
            ask_all(client, found)
            found.metrics = client.get("/metrics").text
            crash(client, found)
            service.process.terminate()
            service.process.wait(120)
        found.export = export(folder)
        yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ask_all(client: httpx.Client, found: Written) -> None:
    """Every identifier succeeds, is refused, is not JSON, breaks off, and crashes the handler."""
    for number, names in enumerate(BATCHES):
        said = [(b"x-request-id", "-".join(names).encode()), (b"x-session-id", names[0].encode())]
        for kinds in (ANSWERED, REFUSED):
            path, body = kinds[number % len(kinds)](names)
            found.note(client.post(path, json=body, headers=said, params={"for": names[0]}))
        found.note(client.post(CHAT, content=f'{{"messages": "{" ".join(names)}'.encode()))
        found.note(client.post(PLAIN, json=plain([IN_HANDLER, *names])[1]))
        with suppress(httpx.TimeoutException):
            client.post(CHAT, json=chat(names, ignore_eos=True, max_tokens=60)[1], timeout=0.01)
        with client.stream("POST", PLAIN, json=plain(names, ignore_eos=True, stream=True, max_tokens=60)[1]) as answer:
            next(answer.iter_lines(), None)


def crash(client: httpx.Client, found: Written) -> None:
    """The engine dies while it answers requests with all the identifiers."""
    with ThreadPoolExecutor(16) as pool:
        running = [pool.submit(client.post, CHAT, json=chat(names, max_tokens=60, stop=names, ignore_eos=True)[1])
                   for names in BATCHES[:16]]
        time.sleep(0.1)
        found.note(client.post(PLAIN, json=plain(NAMES[:4], stop=[IN_ENGINE, *NAMES])[1]))
        for answer in running:
            found.note(answer.result())


def test_every_kind_of_request_was_made(written: Written) -> None:
    assert written.statuses[200] >= 50 and written.statuses[400] >= 50 and written.statuses[404] >= 4
    assert written.statuses[500] >= 51, "the handler and the engine crashed"
    assert "vllm:" in written.metrics or "medrl" in written.metrics
    reasons = Counter(json.loads(line)["finish_reason"] for line in written.export.splitlines())
    assert reasons["length"] >= 50 and reasons["abort"] >= 20 and reasons["error"] >= 1


def test_the_crash_is_in_the_logs_all_the_same(written: Written) -> None:
    logs = "".join(path.read_text(errors="replace") for path in written.folder.glob("ray/session_*/logs/**/*")
                   if path.is_file())
    assert "EngineCore encountered a fatal error" in logs and "failing_execute" in logs


def test_each_request_is_a_line_in_the_log(written: Written) -> None:
    lines = [json.loads(line) for line in (written.folder / "requests.jsonl").read_text().splitlines()]
    assert len({line["request_id"] for line in lines}) == len(lines) >= sum(written.statuses.values())
    assert {line["status"] for line in lines} >= {200, 400, 404, 500}


def test_nothing_of_them_is_written_anywhere(written: Written) -> None:
    written.check()


def test_the_search_finds_what_is_there(written: Written, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\x00" + json.dumps({"prompt": NAMES[0]}).encode() + NAMES[1].encode())
    assert set(found_under(tmp_path)) == {NAMES[0], NAMES[1]}
    assert any(path.suffix == ".db" for path in (written.folder / "audit").iterdir())
