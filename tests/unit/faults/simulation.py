"""A pool of simulated workers in virtual time, and what must hold whatever happens to them.

The simulation knows what really became of every worker and of every item; the machine only hears of it, sometimes late.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from medrl.errors import WorkerError
from medrl.faults.commands import Command, Discard, Reissued, Release, Run, Spawn, Sync
from medrl.faults.job import ATTEMPTS, Job
from medrl.faults.pool import Limits, PoolMachine

LIMITS = Limits(start=50.0, sync=10.0, run=100.0)
STEPS = 30_000  # of one wait


@dataclass(frozen=True)
class Faults:
    """Chances of what can go wrong with each start, sync and piece of work, and how often the cluster changes."""

    die: float = 0.0
    hang: float = 0.0  # no answer, ever
    late: float = 0.0  # an answer after it is no longer waited for
    churn: float = 0.0  # nodes that come or go, a second

    @property
    def any(self) -> bool:
        return bool(self.die or self.hang or self.late or self.churn)


@dataclass
class Worker:
    """What a worker is, whatever the machine thinks."""

    placed: bool = False
    started: bool = False
    dead: bool = False
    discarded: bool = False
    version: int | None = None
    began: float | None = None  # what it has to answer
    limit: float = 0.0
    items: tuple[int, ...] = ()
    call: int = -1


class OverBudget(Exception):
    pass


@dataclass
class World:
    machine: PoolMachine
    rng: random.Random
    faults: Faults
    room: int
    budget: int
    stateless: bool = False
    now: float = 0.0
    losses: int = 0
    asked: int | None = None  # the version that results must be of
    call: int = -1
    size: int = 0  # members the pool has to ask for
    needed: int = 0
    short_since: float = math.inf
    workers: dict[int, Worker] = field(default_factory=dict)
    holder: dict[tuple[int, int], int] = field(default_factory=dict)  # (call, item) → the last worker that got it
    queue: dict[int, None] = field(default_factory=dict)  # workers that wait for room, in order
    used: int = 0
    lost_with: Counter = field(default_factory=Counter)  # item of this call → members lost with it
    kinds: Counter = field(default_factory=Counter)  # commands carried out
    reissued: int = 0
    _events: list = field(default_factory=list)
    _ties: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        if self.faults.churn:
            self.after(self.rng.expovariate(self.faults.churn), self.change_room)

    # The driver's side

    def start(self, workers: int, most: int) -> None:
        self.size = workers
        self.machine.grow(workers, self.now)
        self.machine.need(workers, self.now)
        self.wait(lambda: len(self.machine.ready) >= workers, needed=workers)
        self.size = most
        self.machine.grow(most, self.now)

    def give_way(self, workers: int, most: int) -> None:
        """Others need the room for a while."""
        self.size = workers
        self.machine.shrink(workers, self.now)
        self.carry_out()
        self.size = most
        self.machine.grow(most, self.now)

    def sync(self, version: int) -> None:
        self.call, self.asked = self.call + 1, version
        self.machine.update(version, self.now)
        self.wait(lambda: self.machine.updated)
        assert any(w.version == version and not w.discarded for w in self.workers.values())

    def work(self, weights: list[float], give_up_after: int | None = None) -> None:
        """One call; its answers must be those of every item, in order, by the version asked for."""
        job = self.begin(weights)
        if give_up_after is not None:
            self.wait(lambda: job.done, steps=give_up_after)
            return
        self.wait(lambda: job.done)
        assert job.answers == [(self.call, item, self.asked) for item in range(len(weights))]
        assert max(self.lost_with.values(), default=0) < ATTEMPTS, "an item was tried too often"

    def begin(self, weights: list[float]) -> Job:
        self.call += 1
        self.lost_with.clear()
        return self.machine.begin(weights, self.now)

    def wait(self, until: Callable[[], bool], needed: int = 1, steps: int = STEPS) -> None:
        self.needed = needed
        self.short_since = math.inf
        self.carry_out()
        for _ in range(steps):
            if until():
                return
            then = min(self._events[0][0] if self._events else math.inf, self.machine.deadline)
            assert then < math.inf, "waits for ever"
            self.now = max(self.now, then)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
                self.carry_out()
            if until():
                return
            self.machine.tick(self.now)
            self.carry_out()
            self.machine.check(self.now)
            self.check_deadlines()
        assert steps < STEPS, "no end"

    def check_deadlines(self) -> None:
        for worker in self.workers.values():
            if not worker.discarded and worker.began is not None:
                assert self.now < worker.began + worker.limit, "a silent worker is waited for"
        assert self.now < self.short_since + LIMITS.start, "too few workers, and nobody says so"

    # The cluster's side

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ties), what))

    def carry_out(self) -> None:
        while self.machine.commands:
            command = self.machine.commands.popleft()
            self.kinds[type(command)] += 1
            self.do(command)
        assert sum(not w.discarded for w in self.workers.values()) == self.size, "a lost worker is not replaced"
        up = sum(w.started and not w.discarded for w in self.workers.values())
        if up >= self.needed:
            self.short_since = math.inf
        elif math.isinf(self.short_since):
            self.short_since = self.now

    def do(self, command: Command) -> None:
        match command:
            case Spawn(number):
                assert number not in self.workers
                self.workers[number] = Worker()
                self.queue[number] = None
                self.place()
            case Sync(number, version):
                assert version == self.asked
                self.occupy(number, LIMITS.sync, lambda w: setattr(w, "version", version),
                            lambda _: self.machine.synced(number, version, self.now))
            case Run(number, items):
                self.run(number, items)
            case Discard(number):
                self.discard(number)
            case Release(number):
                assert not self.workers[number].discarded
                self.workers[number].discarded = True
                self.leave(number)
                self.place()
            case Reissued(items):
                self.reissued += items

    def run(self, number: int, items: tuple[int, ...]) -> None:
        worker, call = self.workers[number], self.call
        assert items and worker.started and not worker.discarded and worker.began is None
        assert worker.version == self.asked, "work for a stale worker"
        holders = {self.holder.get((call, item)) for item in items} - {None}
        assert all(self.workers[holder].discarded for holder in holders), "an item is with two workers"
        self.holder.update({(call, item): number for item in items})
        worker.items, worker.call = items, call

        def answer(version: int | None) -> None:
            worker.items = ()
            self.machine.answered(number, [(call, item, version) for item in items], self.now)

        self.occupy(number, LIMITS.run, lambda _: None, answer)

    def occupy(
        self, number: int, limit: float, effect: Callable[[Worker], None], tell: Callable[[int | None], None]
    ) -> None:
        """The worker does something for up to `limit` seconds, unless it comes to grief."""
        worker = self.workers[number]
        assert worker.began is None, "a worker does two things at once"
        worker.began, worker.limit = self.now, limit
        if worker.dead:  # nobody knew
            self.after(0.1, lambda: self.machine.lost(number, "it died", self.now))
            return
        die, hang, late = (self.rng.random() < chance for chance in
                           (self.faults.die, self.faults.hang, self.faults.late))
        seconds = self.rng.uniform(0.01, 0.5) * limit

        def finish() -> None:
            if worker.dead and not worker.discarded:
                return  # told when it died
            worker.began = None
            effect(worker)
            tell(worker.version)

        if die:
            self.after(seconds, lambda: self.kill(number))
        elif late:
            self.after(limit * self.rng.uniform(1.0, 3.0) + 0.01, finish)
        elif not hang:
            self.after(seconds, finish)

    def kill(self, number: int) -> None:
        """The worker's process is gone; the news takes a moment, and comes only while something is asked of it."""
        worker = self.workers[number]
        if worker.dead or worker.discarded:
            return
        worker.dead = True
        self.leave(number)
        if worker.began is not None:
            self.after(self.rng.uniform(0.0, 1.0), lambda: self.machine.lost(number, "it died", self.now))
        self.place()

    def discard(self, number: int) -> None:
        worker = self.workers[number]
        assert not worker.discarded, "lost twice"
        if worker.call == self.call:
            self.lost_with.update(worker.items)
        worker.discarded = True
        self.leave(number)
        self.losses += 1
        if self.losses > self.budget:
            raise OverBudget
        self.place()

    def place(self) -> None:
        """Workers that wait get the room there is, in the order they came."""
        while self.queue and self.used < self.room:
            number = next(iter(self.queue))
            del self.queue[number]
            self.begin_start(number)

    def leave(self, number: int) -> None:
        self.queue.pop(number, None)
        self.used -= self.workers[number].placed
        self.workers[number].placed = False

    def begin_start(self, number: int) -> None:
        worker = self.workers[number]
        worker.placed = True
        self.used += 1

        def told() -> None:
            self.machine.placed(number, "node", self.now)
            if not worker.dead and not worker.discarded:
                self.occupy(number, LIMITS.start, up, lambda _: self.machine.started(number, self.now))
            elif not worker.discarded:
                self.machine.lost(number, "it died", self.now)

        def up(worker: Worker) -> None:
            worker.started = True
            worker.version = self.asked if self.stateless else None

        self.after(self.rng.uniform(0.0, 2.0), told)

    def change_room(self) -> None:
        """A node comes, or one goes with all that is on it."""
        step = self.rng.choice((-1, 1)) * self.rng.randint(1, max(1, self.room // 4))
        self.room = max(0, self.room + step)
        here = [n for n, w in self.workers.items() if w.placed]
        for number in self.rng.sample(here, max(0, len(here) - self.room)):
            self.kill(number)
        self.place()
        self.after(self.rng.expovariate(self.faults.churn), self.change_room)


@dataclass(frozen=True)
class Plan:
    """One schedule of everything, as far as chance does not fill it in."""

    seed: int
    workers: int
    extra: int
    room: int  # beyond `workers`
    items: int
    rounds: int
    budget: int
    stateless: bool
    faults: Faults
    calm_start: bool = False  # no faults before the first workers are up


def play(plan: Plan, machine_class: type[PoolMachine] = PoolMachine) -> tuple[World, str]:
    """A whole run; returns the world and how it ended: "done" or the reason, which must be a true one."""
    rng = random.Random(plan.seed)
    machine = machine_class("rollout", LIMITS, stateless=plan.stateless)
    faults = Faults() if plan.calm_start else plan.faults
    world = World(machine, rng, faults, plan.workers + plan.room, plan.budget, plan.stateless,
                  asked=0 if plan.stateless else None)
    try:
        world.start(plan.workers, plan.workers + plan.extra)
        world.faults = plan.faults
        for version in range(plan.rounds):
            if not plan.stateless:
                world.sync(version)
            for _ in range(rng.randint(1, 2)):
                weights = [rng.uniform(1.0, 9.0) for _ in range(rng.randint(0, plan.items))]
                world.work(weights, rng.randint(0, 5) if rng.random() < 0.2 else None)
            if rng.random() < 0.2:
                world.give_way(plan.workers, plan.workers + plan.extra)
            world.now += rng.choice((0.0, 1.0, 500.0))  # the driver does something else
    except OverBudget:
        assert world.losses == plan.budget + 1
        return world, "over budget"
    except WorkerError as error:
        if "too few" in error.message:
            assert world.now >= world.short_since + LIMITS.start, "there were enough workers"
            return world, "too few"
        assert max(world.lost_with.values(), default=0) >= ATTEMPTS, "no item was with so many lost workers"
        return world, "hopeless"
    return world, "done"
