"""Faults are counted, told and, beyond the limit, end the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.errors import WorkerError
from medrl.faults.budget import FaultBudget
from medrl.faults.events import EventLog


def test_faults_up_to_the_limit_are_recorded_and_one_more_ends_the_run(tmp_path: Path) -> None:
    said: list[str] = []
    budget = FaultBudget(2, EventLog(tmp_path / "events.jsonl", said.append))
    budget.events.step = 4
    budget.charge("rollout", "rollout 1 on 127.0.0.1", "it died")
    budget.charge("policy", "policy rank 0", "no answer within 9 s")
    with pytest.raises(WorkerError) as caught:
        budget.charge("rollout", "rollout 2", "it died")
    assert "faults.limit 2" in caught.value.limit and "policy 1, rollout 2" in caught.value.got
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [row["worker"] for row in rows] == ["rollout 1 on 127.0.0.1", "policy rank 0", "rollout 2"]
    assert all(row["step"] == 4 and row["event"] == "worker_lost" and row["time"] > 0 for row in rows)
    assert said[0] == "step 4: worker lost (role rollout, worker rollout 1 on 127.0.0.1, reason it died)"


def test_history_of_an_earlier_attempt_is_kept(tmp_path: Path) -> None:
    for attempt in range(2):
        EventLog(tmp_path / "events.jsonl", lambda _: None).record("resumed", attempt=attempt, nothing=None)
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [row["attempt"] for row in rows] == [0, 1] and "nothing" not in rows[0]
