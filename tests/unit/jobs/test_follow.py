"""Following a job's log over connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import pytest
from ray.job_submission import JobStatus

from medrl.jobs import client
from medrl.jobs.client import Client

LINES = ["one\n", "two\n", "three\n", "four\n"]


class Recorded(Client):
    """A job whose log is LINES; each connection ends as the next of `ends` says, after that many lines."""

    def __init__(self, ends: list[tuple[int, str]]) -> None:
        self.ends = ends

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        count, how = self.ends.pop(0)
        for line in LINES[:count]:  # Ray sends the log from its start, every time
            yield line
        if how == "broken":
            raise aiohttp.ClientError
        if how == "abnormal":
            raise RuntimeError("WebSocket connection closed unexpectedly")
        if how == "silent":
            await asyncio.sleep(60)

    def get_job_info(self, job_id: str):
        return SimpleNamespace(status=JobStatus.SUCCEEDED if not self.ends else JobStatus.RUNNING)

    def get_job_logs(self, job_id: str) -> str:
        return "".join(LINES)


@pytest.mark.parametrize("ends", [
    [(4, "closed")],
    [(1, "broken"), (3, "abnormal"), (4, "closed")],
    [(2, "silent"), (1, "closed"), (3, "silent")],
    [(0, "broken"), (2, "broken")],
])
def test_every_line_is_shown_once(ends: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 0.1)
    monkeypatch.setattr(client, "POLL_S", 0.0)
    shown: list[str] = []
    assert Recorded(ends).follow("job", shown.append).status == JobStatus.SUCCEEDED
    assert "".join(shown) == "".join(LINES)
