"""The schedules of test_pool.py find machines that are wrong: each of these breaks one rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from medrl.faults.job import Job
from medrl.faults.member import Member
from medrl.faults.pool import PoolMachine
from medrl.faults.states import Event, State
from tests.unit.faults.simulation import Faults, Plan, play


class ForgetsToRequeue(PoolMachine):
    def _replace(self, member: Member, reason: str) -> None:
        member.job = None
        super()._replace(member, reason)


class AcceptsLateAnswers(PoolMachine):
    def answered(self, number: int, answers: Sequence[Any], now: float) -> None:
        if number not in self.members and self.job:
            self.job._answers.update({item: answer for answer in answers for item in [answer[1]]})
        super().answered(number, answers, now)


class UsesAnswersOfTheJobBefore(PoolMachine):
    def answered(self, number: int, answers: Sequence[Any], now: float) -> None:
        member = self.members.get(number)
        if member and self.job and len(self.job.weights) > max(member.items, default=0):
            member.job = self.job
        super().answered(number, answers, now)


class IsFreshTooEarly(PoolMachine):
    def started(self, number: int, now: float) -> None:
        super().started(number, now)
        if number in self.members:
            self.members[number].state = State.FRESH
            self._review(now)


class KeepsWorkingThroughAnUpdate(PoolMachine):
    def _apply(self, member: Member, event: Event, now: float, reason: str = "") -> None:
        if event is not Event.OUTDATED or member.number % 2:
            super()._apply(member, event, now, reason)


class TakesAnySyncForTheNewest(PoolMachine):
    def synced(self, number: int, version: int, now: float) -> None:
        super().synced(number, self._version if self._version is not None else version, now)


class WaitsForTheSilent(PoolMachine):
    def tick(self, now: float) -> None:
        pass


class ReplacesNobody(PoolMachine):
    def _replace(self, member: Member, reason: str) -> None:
        super()._replace(member, reason)
        self.commands.pop()


class NeverSaysItIsShort(PoolMachine):
    def _review(self, now: float) -> None:
        super()._review(now)
        self._short_since = float("inf")


class GivesTwoMembersTheSame(PoolMachine):
    def _review(self, now: float) -> None:
        waiting = set(self.job.waiting) if self.job else set()
        super()._review(now)
        if self.job and waiting and len(self.members) > 2:
            self.job.waiting |= {min(waiting)}


class TriesForEver(PoolMachine):
    def begin(self, weights: Sequence[float], now: float) -> Job:
        job = super().begin(weights, now)
        job._attempts = [-1000] * len(weights)
        return job


class GivesUpTooEarly(PoolMachine):
    def begin(self, weights: Sequence[float], now: float) -> Job:
        job = super().begin(weights, now)
        job._attempts = [2] * len(weights)
        return job


MUTANTS = [
    ForgetsToRequeue, AcceptsLateAnswers, UsesAnswersOfTheJobBefore, IsFreshTooEarly, KeepsWorkingThroughAnUpdate,
    TakesAnySyncForTheNewest, WaitsForTheSilent, ReplacesNobody, NeverSaysItIsShort, GivesTwoMembersTheSame,
    TriesForEver, GivesUpTooEarly,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_machine_is_found(mutant: type[PoolMachine]) -> None:
    for seed in range(200):
        plan = Plan(seed, 3, 2, 2, 15, 4, 1000, bool(seed % 2), Faults(0.05, 0.03, 0.05, 0.01))
        play(plan)
        try:
            play(plan, mutant)
        except (AssertionError, KeyError, ValueError):
            return
    pytest.fail("no schedule finds it")
