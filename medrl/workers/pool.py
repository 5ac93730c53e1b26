"""A pool of Ray workers that do the same: whoever dies or falls silent is replaced, its work goes to others.

The rules are in `medrl.faults.pool`; here they meet Ray. Workers sit in no placement group, so that one more may join
wherever the cluster has room.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import NODE_ID_LABEL_KEY

from medrl.errors import MedrlError, WorkerError
from medrl.faults.budget import FaultBudget
from medrl.faults.commands import Command, Discard, Joined, Reissued, Release, Run, Spawn, Sync
from medrl.faults.job import Job
from medrl.faults.pool import Limits, PoolMachine
from medrl.profile.recorder import Recorded
from medrl.workers.capacity import RolePlan
from medrl.workers.group import TICK_S
from medrl.workers.paths import unseen
from medrl.workers.placement import ROOM_PATIENCE_S

T = TypeVar("T")
POLL_S = 1.0  # longest wait for Ray between two looks at the clock
SYNC = "weight sync"
FETCH_S = 60.0  # for an answer that is there already


@dataclass(frozen=True)
class Place:
    """Where a worker is: the address and the id of its node, and which paths that does not see."""

    address: str
    node: str
    unseen: tuple[str, ...]


class PoolWorker(Recorded):
    """What the workers of pools have in common."""

    def where(self, paths: Sequence[str]) -> Place:
        """The first answer of a worker that has found room."""
        node = ray.get_runtime_context().get_node_id()
        return Place(ray.util.get_node_ip_address(), node, tuple(unseen(paths)))


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call on a pool that is in flight."""

    ended: Callable[[float], bool]  # whether it has, within so many seconds; raises when it never will
    value: Callable[[], T]  # what it came to, once it has ended

    def result(self, meanwhile: Callable[[], None] | None = None) -> T:
        """Waits for it. `meanwhile` is called again and again until then; it should not wait."""
        while not self.ended(TICK_S if meanwhile else POLL_S):
            if meanwhile:
                meanwhile()
        return self.value()


@dataclass(frozen=True)
class Asked:
    """What a reference stands for: `tell` the machine about its value."""

    member: int
    what: str  # "start", for errors
    tell: Callable[[Any, float], None]


class Pool:
    """Workers of one role, `plan.workers` from the start on and up to `plan.most` as soon as the cluster has room.

    A worker is a PoolWorker with a method `start`, made from `arguments`. Losses are charged to `budget`;
    `make_room` is called when the pool is short and finds no room.
    """

    def __init__(
        self, plan: RolePlan, worker_class: Any, arguments: tuple, limits: Limits, budget: FaultBudget,
        *, stateless: bool = True, make_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.role, self.plan = plan.role, plan
        self.started: dict[int, Any] = {}  # member → what its start returned
        self._worker_class, self._arguments = worker_class, arguments
        self._budget = budget
        self._make_room = make_room
        self._machine = PoolMachine(plan.role, limits, stateless=stateless)
        self._handles: dict[int, Any] = {}
        self._avoided: set[str] = set()  # ids of nodes that do not see what the workers need
        self._asked: dict[ray.ObjectRef, Asked] = {}
        self._send: Callable[[Any, Sequence[int]], ray.ObjectRef] | None = None

    def start(self) -> Call[Any]:
        """Have `plan.workers` workers started; what the first one says about itself."""
        self._machine.grow(self.plan.workers, time.monotonic())
        self._machine.need(self.plan.workers, time.monotonic())
        self._turn(0.0)

        def ended(seconds: float) -> bool:
            return self._reached(lambda: len(self._machine.ready) >= self.plan.workers, seconds)

        return Call(ended, lambda: self.started[min(self.started)])

    def submit(
        self, weights: Sequence[float], send: Callable[[Any, Sequence[int]], ray.ObjectRef],
        combine: Callable[[list[Any]], T],
    ) -> Call[T]:
        """Share out items of these weights; `combine` gets an answer for each, in order.

        `send(worker, items)` asks a worker for the answers to some of them. An earlier call that has not ended is given
        up.
        """
        self._look_around()
        self._send = send
        job = self._machine.begin(weights, time.monotonic())
        self._turn(0.0)
        return Call(lambda seconds: self._ended(job, seconds), lambda: combine(job.answers))

    def give_way(self) -> None:
        """Free the places of the workers that the run can do without. They are asked for again at the next call."""
        self._turn(0.0)
        self._machine.shrink(self.plan.workers, time.monotonic())
        self._carry_out()

    def shutdown(self) -> None:
        """Kill the workers and free their resources."""
        for handle in self._handles.values():
            ray.kill(handle)
        self._handles, self._asked = {}, {}

    @property
    def members(self) -> dict[int, Any]:
        """The handle of each worker that has started, by its number."""
        return {number: self._handles[number] for number in sorted(self.started)}

    def sync_member(self, number: int, version: int) -> ray.ObjectRef:
        """Ask a worker to take over the newest weights."""
        raise NotImplementedError(f"{self.role} workers take over no weights")

    def synced(self, member: int, version: int, answer: Any) -> None:
        """A worker has taken over the weights of `version`."""

    def failure(self, what: str, error: RayError) -> MedrlError | None:
        """What ends the run when `error` comes instead of an answer. None: it is a fault, of the worker or the way."""
        cause = cause_of(error)
        if isinstance(cause, MedrlError):
            return cause
        if isinstance(cause, RayError):
            return None
        return WorkerError(f"{self.role} {what} failed", got=f"{type(cause).__name__}: {cause}",
                           remedy="the traceback above names the place")

    def _ended(self, job: Job, seconds: float) -> bool:
        if not job.done and self._machine.job is not job:
            raise WorkerError(f"a call on the {self.role} workers was given up", limit="one call at a time",
                              got="another one after it")
        return self._reached(lambda: job.done, seconds)

    def _look_around(self) -> None:
        """Hear what happened since the last call, and ask for the workers that may join."""
        self._turn(0.0)
        self._machine.grow(self.plan.most, time.monotonic())

    def _reached(self, goal: Callable[[], bool], seconds: float) -> bool:
        """Whether `goal` is, after at most `seconds`. Raises WorkerError when it cannot be any more."""
        self._turn(0.0)
        if goal():
            return True
        self._machine.check(time.monotonic())
        if self._machine.cramped(time.monotonic(), ROOM_PATIENCE_S):
            self._make_room()
        self._turn(seconds)
        return goal()

    def _turn(self, seconds: float) -> None:
        """Tell the machine what happened within `seconds`, then do what it wants done."""
        self._carry_out()
        for ref in self._answered(seconds):
            if asked := self._asked.pop(ref, None):  # None: of a worker lost a moment ago
                self._hear(asked, ref)
                self._carry_out()
        self._machine.tick(time.monotonic())  # after all answers are heard, however late the driver looks
        self._carry_out()

    def _answered(self, seconds: float) -> Iterable[ray.ObjectRef]:
        seconds = max(0.0, min(seconds, self._machine.deadline - time.monotonic()))
        if not self._asked:
            time.sleep(seconds)
            return []
        ray.wait(list(self._asked), timeout=seconds)
        return ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0]

    def _hear(self, asked: Asked, ref: ray.ObjectRef) -> None:
        """An error of the work itself is raised; one of the worker, its node or the way there is a fault."""
        try:
            value = ray.get(ref, timeout=FETCH_S)
        except RayError as error:
            if failure := self.failure(asked.what, error):
                raise failure from error
            self._machine.lost(asked.member, _reason(cause_of(error)), time.monotonic())
        else:
            asked.tell(value, time.monotonic())

    def _carry_out(self) -> None:
        while self._machine.commands:
            self._do(self._machine.commands.popleft())

    def _do(self, command: Command) -> None:
        machine, number = self._machine, getattr(command, "member", -1)
        match command:
            case Spawn():
                self._create(number)
            case Sync(version=version):
                def synced(answer: Any, now: float) -> None:
                    self.synced(number, version, answer)
                    machine.synced(number, version, now)

                self._ask(number, SYNC, self.sync_member(number, version), synced)
            case Run(items=items):
                assert self._send is not None
                self._ask(number, "work", self._send(self._handles[number], items),
                          lambda answers, now: machine.answered(number, answers, now))
            case Discard(name=name, reason=reason):
                self._end(number)
                self._budget.charge(self.role, name, reason)
            case Release():
                self._end(number)
            case Joined(name=name):
                if number >= self.plan.workers:  # not one of the first
                    self._budget.events.record("worker_joined", role=self.role, worker=name)
            case Reissued(items=items, name=name):
                self._budget.events.record("reissued", role=self.role, items=items, worker=name)

    def _create(self, number: int) -> None:
        elsewhere = {NODE_ID_LABEL_KEY: f"!in({', '.join(sorted(self._avoided))})"} if self._avoided else {}
        place = self._worker_class.options(
            num_cpus=self.plan.cpus, num_gpus=self.plan.gpus, label_selector=elsewhere | dict(self.plan.labels) or None,
            scheduling_strategy="SPREAD", max_restarts=0)
        handle = self._handles[number] = place.remote(*self._arguments)

        def started(value: Any, now: float) -> None:
            self.started[number] = value
            self._machine.started(number, now)

        self._ask(number, "start", handle.where.remote(self.plan.paths),
                  lambda place, now: self._placed(number, place, now))
        self._ask(number, "start", handle.start.remote(), started)

    def _placed(self, number: int, place: Place, now: float) -> None:
        """Nodes that joined after the launch have not been asked for paths: one that lacks some gets no worker."""
        if not place.unseen or number < self.plan.workers:  # one of the first fails by itself, with the better message
            return self._machine.placed(number, place.address, now)
        self._avoided.add(place.node)
        self._budget.events.record("node_refused", role=self.role, missing=", ".join(place.unseen),
                                   node=f"{place.address} (node {place.node[:8]})")
        self._machine.refused(number, now)

    def _end(self, number: int) -> None:
        ray.kill(self._handles.pop(number))
        self.started.pop(number, None)
        self._asked = {ref: asked for ref, asked in self._asked.items() if asked.member != number}

    def _ask(self, member: int, what: str, ref: ray.ObjectRef, tell: Callable[[Any, float], None]) -> None:
        self._asked[ref] = Asked(member, what, tell)


def cause_of(error: RayError) -> BaseException:
    """What a worker raised, or what came between."""
    return error.cause if isinstance(error, RayTaskError) else error


def _reason(error: BaseException) -> str:
    """Kind of the error and the line of Ray's message that says most, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    why = next((line for line in lines if "because" in line), lines[0])
    return f"{type(error).__name__}: {textwrap.shorten(why, 200)}"
