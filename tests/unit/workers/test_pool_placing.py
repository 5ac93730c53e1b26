"""Nodes without the models that a pool's workers need, over fake Ray workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medrl.faults.budget import FaultBudget
from medrl.faults.events import EventLog
from medrl.faults.pool import Limits
from medrl.workers import pool as pool_module
from medrl.workers.capacity import RolePlan
from medrl.workers.pool import Place, Pool


class FakeWorkers:
    """In the place of a Ray class: remembers with which options each worker was asked for, and who was killed."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.killed: list[Any] = []

    def options(self, **options: Any) -> Any:
        self.asked.append(options)
        number = len(self.asked) - 1
        worker = type("FakeWorker", (), {"number": number, "where": _Method(number), "start": _Method(number)})()
        return type("FakeClass", (), {"remote": staticmethod(lambda *arguments: worker)})


class _Method:
    def __init__(self, number: int) -> None:
        self.number = number

    def remote(self, *arguments: Any) -> Any:
        return object()


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    fakes = FakeWorkers()
    monkeypatch.setattr(pool_module.ray, "kill", lambda worker: fakes.killed.append(worker.number))
    return fakes


def pool_of(workers: FakeWorkers, log: Path, labels: dict[str, str]) -> Pool:
    """Two workers; the second is one that may join."""
    plan = RolePlan("rollout", 1, 1.0, 0.0, None, "SPREAD", labels, ("/models/policy",), extra=1)
    pool = Pool(plan, workers, (), Limits(60, 60, 60), FaultBudget(0, EventLog(log, report=lambda line: None)))
    pool._machine.grow(2, 0.0)
    pool._carry_out()
    return pool


def events(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("labels", [{}, {"zone": "b"}])
def test_a_node_without_the_model_gets_no_worker_and_no_loss_is_charged(
        workers: FakeWorkers, tmp_path: Path, labels: dict[str, str]) -> None:
    pool = pool_of(workers, tmp_path / "events.jsonl", labels)
    assert [asked["label_selector"] for asked in workers.asked] == [labels or None] * 2
    pool._placed(1, Place("10.0.0.9", "abcdef0123456789", ("/models/policy",)), 1.0)
    pool._carry_out()
    assert workers.killed == [1] and list(pool._machine.members) == [0, 2] and pool._budget.spent == 0
    assert workers.asked[2]["label_selector"] == labels | {"ray.io/node-id": "!in(abcdef0123456789)"}
    row = events(tmp_path / "events.jsonl")[0]
    assert (row["event"], row["role"], row["missing"], row["node"]) == (
        "node_refused", "rollout", "/models/policy", "10.0.0.9 (node abcdef01)")
    pool._placed(2, Place("10.0.0.8", "0000", ("/models/policy",)), 2.0)
    pool._carry_out()
    assert workers.asked[3]["label_selector"] == labels | {"ray.io/node-id": "!in(0000, abcdef0123456789)"}
    pool._placed(3, Place("10.0.0.7", "1111", ()), 3.0)
    pool._carry_out()
    assert pool._machine.members[3].node == "10.0.0.7" and len(workers.asked) == 4


def test_one_of_the_first_says_itself_what_it_lacks(workers: FakeWorkers, tmp_path: Path) -> None:
    pool = pool_of(workers, tmp_path / "events.jsonl", {})
    pool._placed(0, Place("10.0.0.9", "abc", ("/models/policy",)), 1.0)
    pool._carry_out()
    assert pool._machine.members[0].node == "10.0.0.9" and not workers.killed
    assert not events(tmp_path / "events.jsonl")
