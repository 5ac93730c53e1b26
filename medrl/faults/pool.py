"""A pool of interchangeable workers that die, fall silent, are replaced and join: its rules, without Ray or a clock.

Whoever drives the machine tells it what happened and when (`now`, in seconds), carries out its `commands`, and calls
`tick` and `check` when `deadline` has come. Every wait ends: a member that does something has a deadline, and so has
being short of members.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medrl.errors import WeightSyncError, WorkerError
from medrl.faults.commands import Command, Discard, Joined, Reissued, Release, Run, Spawn, Sync
from medrl.faults.job import ATTEMPTS, Job, share_out
from medrl.faults.member import Member
from medrl.faults.states import Action, Event, State, transition


@dataclass(frozen=True)
class Limits:
    """Seconds after which a member that has not answered counts as silent."""

    start: float  # from when it has a place; also how long a pool may be short of members
    sync: float
    run: float


class PoolMachine:
    """Members 0, 1, … of one role. One job at a time: a new one, or newer weights, give up the one before."""

    def __init__(self, role: str, limits: Limits, *, stateless: bool) -> None:
        self.role = role
        self.limits = limits
        self.commands: deque[Command] = deque()
        self.members: dict[int, Member] = {}
        self._stateless = stateless
        self._version: int | None = None  # that members have to hold; None: there is nothing yet to take over
        self.job: Job | None = None  # the newest, unless newer weights gave it up
        self._awaited: set[int] = set()  # members that the newest weights are still on their way to
        self._spawned = 0
        self._needed = 0
        self._short_since = math.inf

    # What the driver wants

    def grow(self, size: int, now: float) -> None:
        """Ask for members up to `size`."""
        taken = {member.slot for member in self.members.values()}
        for slot in (f"{self.role} {number}" for number in range(size)):
            if slot not in taken and len(self.members) < size:
                self._spawn(slot)
        self._review(now)

    def shrink(self, size: int, now: float) -> None:
        """Let go of the members beyond `size`, first of those without a place, then of the newest.

        Others get what they had to do.
        """
        spare = sorted(self.members.values(), key=lambda m: (m.node == "", m.number))[size:]
        for member in spare:
            del self.members[member.number]
            self._awaited.discard(member.number)
            if member.job is self.job and self.job is not None:
                self.job.recall(member.items)
            self.commands.append(Release(member.number))
        self._review(now)

    def need(self, members: int, now: float) -> None:
        """From now on the pool is short when fewer than `members` have started."""
        self._needed, self._short_since = members, math.inf
        self._review(now)

    def begin(self, weights: Sequence[float], now: float) -> Job:
        """Have items of these weights worked on. Raises WeightSyncError when there are no weights to work with."""
        if self._version is None and not self._stateless:
            raise WeightSyncError(f"no {self.role} worker may work yet", got="no weights since the start or since the "
                                  "learners went back", remedy="sync weights first")
        self.job = Job(weights)
        self.need(1, now)
        return self.job

    def update(self, version: int | None, now: float) -> None:
        """Every member has to take over `version`; None: to wait for the next one."""
        self.job, self._version = None, version
        self._awaited = {n for n, member in self.members.items() if member.state is not State.STARTING}
        for member in list(self.members.values()):
            self._apply(member, Event.OUTDATED, now)
        self.need(1, now)

    @property
    def updated(self) -> bool:
        """Every member that could take over the newest weights has, and there is one."""
        return not self._awaited and any(m.state is State.FRESH for m in self.members.values())

    @property
    def ready(self) -> list[int]:
        """The members that have started."""
        return [number for number, m in self.members.items() if m.state is not State.STARTING]

    def cramped(self, now: float, patience: float) -> bool:
        """The pool has been short for so long, and not for members that still load their models."""
        placed = any(m.node for m in self.members.values() if m.state is State.STARTING)
        return now >= self._short_since + patience and not placed

    # What happened

    def placed(self, number: int, node: str, now: float) -> None:
        """The member runs on `node`: from now on the time for its start counts."""
        member = self.members.get(number)
        if member and member.state is State.STARTING:
            member.node = node
            member.begin(now, self.limits.start)

    def refused(self, number: int, now: float) -> None:
        """The member's node cannot have it: it ends, which is no loss, and is asked for again."""
        if member := self.members.get(number):
            del self.members[number]
            self.commands.append(Release(number))
            self._spawn(member.slot)
            self._review(now)

    def started(self, number: int, now: float) -> None:
        if member := self.members.get(number):
            member.finish()
            self._apply(member, Event.STARTED, now)
            if self._stateless:
                self._apply(member, Event.SYNCED, now)
            self._review(now)

    def synced(self, number: int, version: int, now: float) -> None:
        """The member holds `version`, which need not be the newest any more."""
        if member := self.members.get(number):
            member.finish()
            if version == self._version:
                self._awaited.discard(number)
                self._apply(member, Event.SYNCED, now)
            else:
                self._catch_up(member, now)
            self._review(now)

    def answered(self, number: int, answers: Sequence[Any], now: float) -> None:
        """The member is done with its items. What it says of a job that was given up is dropped."""
        if member := self.members.get(number):
            if member.job is self.job and self.job is not None:
                self.job.answer(member.items, answers)
            member.finish()
            if member.state is State.STALE:
                self._catch_up(member, now)
            self._review(now)

    def lost(self, number: int, reason: str, now: float) -> None:
        """The member died or fell silent. Nothing happens when that is known already."""
        if member := self.members.get(number):
            self._apply(member, Event.LOST, now, reason)
            self._review(now)

    # Time

    @property
    def deadline(self) -> float:
        """When `tick` has something to do, or `check` to say, if nothing happens before."""
        return min([self._short_since + self.limits.start, *(m.deadline for m in self.members.values())])

    def tick(self, now: float) -> None:
        """Members whose time is up are lost."""
        for member in list(self.members.values()):
            if member.deadline <= now:
                self.lost(member.number, f"no answer within {member.limit:g} s", now)

    def check(self, now: float) -> None:
        """Raises WorkerError when the job cannot be done."""
        if self.job and self.job.hopeless:
            raise WorkerError(
                f"{self.role}: {len(self.job.hopeless)} items were each with {ATTEMPTS} workers that were lost",
                limit=f"at most {ATTEMPTS - 1} lost workers an item", got=f"items {sorted(self.job.hopeless)[:10]}",
                remedy="they may be what kills the workers: see Ray's log directory; continue with --resume")
        if now >= self._short_since + self.limits.start:
            missing = [f"{m.name} {'is starting' if m.node else 'waits for room'}"
                       for m in self.members.values() if m.state is State.STARTING]
            raise WorkerError(
                f"too few {self.role} workers",
                limit=f"{self._needed} ready within {self.limits.start:g} s",
                got=f"{len(self.ready)} ready; {', '.join(missing[:10])}",
                remedy="free resources, add nodes, or ask for fewer; raise timeouts.start if they only load slowly")

    # Within

    def _spawn(self, slot: str) -> None:
        member = Member(self._spawned, slot)
        self._spawned += 1
        self.members[member.number] = member
        self.commands.append(Spawn(member.number))

    def _apply(self, member: Member, event: Event, now: float, reason: str = "") -> None:
        member.state, action = transition(member.state, event)
        if action is Action.CATCH_UP:
            self._catch_up(member, now)
        elif action is Action.REPLACE:
            self._replace(member, reason)
        elif action is Action.WORK and not member.joined:
            member.joined = True
            self.commands.append(Joined(member.number, member.name))

    def _catch_up(self, member: Member, now: float) -> None:
        """Once it is idle: it may still work on what was given up, or take over weights that are old by now."""
        if member.idle and self._version is not None:
            member.syncing = True
            member.begin(now, self.limits.sync)
            self.commands.append(Sync(member.number, self._version))

    def _replace(self, member: Member, reason: str) -> None:
        del self.members[member.number]
        self._awaited.discard(member.number)
        self.commands.append(Discard(member.number, member.name, reason))
        if member.job is self.job and self.job is not None:
            self.job.take_back(member.items)
            self.commands.append(Reissued(len(member.items), member.name))
        self._spawn(member.slot)

    def _review(self, now: float) -> None:
        """After anything changed: who gets what waits, and is the pool short of members?"""
        if len(self.ready) >= self._needed:
            self._short_since = math.inf
        elif math.isinf(self._short_since):
            self._short_since = now
        fresh = [m for m in self.members.values() if m.state is State.FRESH]
        if self.job is None or not self.job.waiting or not any(m.idle for m in fresh):
            return
        shares = share_out(self.job.waiting, self.job.weights, {m.number: m.load for m in fresh})
        for member in fresh:
            items = tuple(sorted(shares[member.number]))
            if member.idle and items:  # a busy one's share waits: whoever is idle first may be another
                self.job.send(items)
                member.job, member.items, member.load = self.job, items, self.job.load(items)
                member.begin(now, self.limits.run)
                self.commands.append(Run(member.number, items))
