"""What a replica makes of its orders."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from medrl.config.swap import SwapConfig
from medrl.errors import ModelError
from serve.swap.follower import Follower
from serve.swap.gate import Gate
from serve.swap.messages import Action, Order, Report, Target
from tests.serve.swap.targets import target

A, B = target(1), target(2)
PROBES = {A.version: (-1.0, -2.0), B.version: (-3.0, -4.0)}


class Engine:
    """Loads what it is told, unless it is `unwell`."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.unwell: set[Target] = set()

    async def load(self, target: Target, limit: float) -> tuple[float, ...]:
        self.loads.append(target.version.number)
        if target in self.unwell:
            raise ModelError("the weights are not numbers")
        return PROBES[target.version]


def follow(engine: Engine, gate: Gate, *orders: tuple[Action, Target]) -> list[Report]:
    """The reports of a replica that starts with A: before the orders and after each."""
    reports: list[Report] = []
    numbers = count(1)
    rest = iter(orders)

    async def ask(report: Report) -> Order | None:
        reports.append(report)
        order = next(rest, None)
        if order is None:
            raise asyncio.CancelledError
        return Order(next(numbers), *order)

    async def scenario() -> None:
        await Follower(ask, gate, engine, SwapConfig(drain_seconds=0.05), A, PROBES[A.version]).run()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    return reports


@pytest.fixture(autouse=True)
def loadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.swap.follower.check_loadable", lambda new, old: None)


def test_there_and_back() -> None:
    engine, gate = Engine(), Gate()
    serve_a, prepare, load, serve_b = (Action.SERVE, A), (Action.PREPARE, B), (Action.LOAD, B), (Action.SERVE, B)
    reports = follow(engine, gate, serve_a, prepare, load, serve_b, (Action.PREPARE, A), (Action.LOAD, A), serve_a)
    assert [(r.loaded, r.serving, r.served) for r in reports] == [
        (A, False, None), (A, True, A), (A, True, A), (B, False, A), (B, True, B),
        (B, True, B), (A, False, B), (A, True, A),
    ]
    assert [r.done for r in reports] == list(range(8)) and not any(r.failure for r in reports)
    assert engine.loads == ["2", "1"] and gate.version == A.version


def test_a_load_that_fails_is_told_and_the_old_version_comes_back() -> None:
    engine, gate = Engine(), Gate()
    engine.unwell.add(B)
    reports = follow(engine, gate, (Action.SERVE, A), (Action.LOAD, B), (Action.SERVE, A))
    assert reports[2].loaded is None and not reports[2].serving
    assert reports[2].failure and "not numbers" in reports[2].failure
    assert reports[3].failure is None and reports[3].serving and engine.loads == ["2", "1"]


def test_a_version_that_answers_otherwise_than_before_does_not_serve() -> None:
    class Forgetful(Engine):
        async def load(self, target: Target, limit: float) -> tuple[float, ...]:
            await super().load(target, limit)
            return PROBES[B.version]  # whatever it was told

    reports = follow(Forgetful(), Gate(), (Action.SERVE, A), (Action.LOAD, B), (Action.LOAD, A))
    assert reports[2].failure is None and reports[3].failure and "as it did before" in reports[3].failure


def test_running_answers_are_not_cut_off() -> None:
    engine, gate = Engine(), Gate()

    async def somebody() -> None:
        await gate.enter()

    gate.open(A.version)
    asyncio.run(somebody())
    reports = follow(engine, gate, (Action.SERVE, A), (Action.LOAD, B))
    assert reports[-1].serving and reports[-1].loaded == A and engine.loads == []
    assert reports[-1].failure and "drain_seconds 0.05" in reports[-1].failure


def test_without_a_way_back_the_replica_gives_up() -> None:
    engine, gate = Engine(), Gate()
    engine.unwell |= {A, B}
    orders = iter([Order(1, Action.LOAD, B), Order(2, Action.SERVE, A)])

    async def ask(report: Report) -> Order | None:
        return next(orders)

    follower = Follower(ask, gate, engine, SwapConfig(), A, PROBES[A.version])
    asyncio.run(follower.run())
    assert gate.broken and follower.report.failure
