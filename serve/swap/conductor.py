"""The one who knows which version is to be served: follows the registry, and leads all replicas through a swap."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError

from medrl.config.registry import RegistryConfig
from medrl.config.swap import SwapConfig
from medrl.errors import RegistryError
from medrl.registry.record import now
from medrl.registry.store import Registry
from serve.swap.machine import Machine, Outcome, Phase
from serve.swap.messages import Order, Report, Target

logger = logging.getLogger("ray.serve")
T = TypeVar("T")
ANSWER_SECONDS = 5.0  # the longest that a replica's question is left open
WATCH_SECONDS = 0.5  # between two looks whether a replica lives


@serve.deployment(max_ongoing_requests=10_000, health_check_period_s=1.0, ray_actor_options={"num_cpus": 0})
class Conductor:
    """One replica of its own. Its memory is the `Machine`, and when it is restarted the replicas tell it again."""

    async def __init__(self, registry: RegistryConfig, alias: str, config: SwapConfig, followers: str) -> None:
        self.alias, self.config, self.followers = alias, config, followers
        self.registry = Registry(registry)
        self.machine = Machine(first_number=time.time_ns())
        self.trouble: str | None = None  # why the registry cannot be read
        self.last: dict[str, Any] | None = None
        self._news = asyncio.Event()
        self._phase_began = time.monotonic()
        self._swap_began = time.monotonic()
        self._tasks = {asyncio.create_task(self._follow_registry()), asyncio.create_task(self._keep_limits())}
        self._watched: set[str] = set()

    # Asked by the replicas

    async def first_target(self) -> Target | None:
        """What a replica that starts loads first; None: ask again."""
        return await self._until(self.machine.first_target, ANSWER_SECONDS)

    async def next_order(self, name: str, actor: ActorHandle, report: Report) -> Order | None:
        """What the replica has to do now; None: ask again."""
        if name not in self._watched:
            self._watched.add(name)
            self._start(self._watch(name, actor))
        self._hear(lambda: self.machine.report(name, report))
        return await self._until(lambda: self.machine.order_for(name), ANSWER_SECONDS)

    # Asked by people

    async def state(self) -> dict[str, Any]:
        """What is served, what is wanted, how the last swap ended, and where each replica stands."""
        machine = self.machine
        return {
            "follows": self.alias,
            "phase": machine.phase,
            "serving": _named(machine.current),
            "wanted": _named(machine.wanted),
            "swapping_to": _named(machine.target),
            "last_swap": self.last,
            "registry": self.trouble or "read",
            "replicas": {
                name: {"version": _named(member.report.loaded), "serving": member.report.serving}
                for name, member in sorted(machine.members.items())
            },
        }

    async def swap_now(self) -> dict[str, Any]:
        """Look at the registry, try again what has failed, wait for the end, and say how it was."""
        await self._look()
        self._hear(self.machine.retry)
        limit = self.config.prepare_seconds + 2 * (self.config.drain_seconds + self.config.load_seconds)
        await self._until(lambda: self._at_rest() or None, limit)
        return await self.state()

    def _at_rest(self) -> bool:
        machine = self.machine
        decided = machine.wanted in (machine.current, machine.refused)
        return machine.phase is Phase.SERVING and decided and machine.settled

    # Watches

    async def _follow_registry(self) -> None:
        while True:
            await self._look()
            if self.machine.phase is Phase.RECOVERING:
                await self._count()
            await asyncio.sleep(self.config.poll_seconds)

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self.registry.find, self.alias)
        except RegistryError as error:
            if self.trouble is None:
                logger.error("the registry cannot be read: %s", error)
            self.trouble = str(error)
        else:
            self.trouble = None
            self._hear(lambda: self.machine.want(Target.of(found)))

    async def _count(self) -> None:
        app = serve.get_replica_context().app_name
        try:
            status = await asyncio.to_thread(serve.status)
        except Exception as error:  # Ray Serve's controller restarts; whatever it says then, it is asked again
            return logger.warning("the replicas cannot be counted: %s", type(error).__name__)
        application = status.applications.get(app)
        deployment = application.deployments.get(self.followers) if application else None
        states = deployment.replica_states if deployment else {}
        running = sum(n for state, n in states.items() if state not in ("STARTING", "STOPPING"))
        self._hear(lambda: self.machine.census(running))

    async def _keep_limits(self) -> None:
        limits = {
            Phase.PREPARING: self.config.prepare_seconds,
            Phase.LOADING: self.config.drain_seconds + self.config.load_seconds,
        }
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            limit = limits.get(self.machine.phase)
            if limit is not None and time.monotonic() - self._phase_began > limit:
                late = ", ".join(self.machine.waiting_for())
                self._hear(lambda why=f"{late}: not done within {limit:g} s": self.machine.give_up(why))

    async def _watch(self, name: str, actor: ActorHandle) -> None:
        while True:
            try:
                await actor.__ray_ready__.remote()  # pyright: ignore[reportGeneralTypeIssues]
            except ActorUnavailableError:
                pass  # the next look says whether it is dead
            except ActorDiedError:
                self._watched.discard(name)
                return self._hear(lambda: self.machine.gone(name))
            await asyncio.sleep(WATCH_SECONDS)

    # The machine's clock and voice

    def _hear(self, news: Callable[[], None]) -> None:
        phase, last = self.machine.phase, self.machine.last
        news()
        if self.machine.phase is not phase:
            self._phase_began = time.monotonic()
            if self.machine.phase is Phase.PREPARING:
                self._swap_began = self._phase_began
        if self.machine.last is not last and self.machine.last:
            self.last = _described(self.machine.last, time.monotonic() - self._swap_began)
            logger.warning("swap %s", self.last)
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, ready: Callable[[], T | None], limit: float) -> T | None:
        """What `ready` gives as soon as it gives something; None after `limit` seconds."""
        deadline = time.monotonic() + limit
        while (value := ready()) is None:
            try:
                await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())
            except TimeoutError:
                return None
        return value

    def _start(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _named(target: Target | None) -> dict[str, str] | None:
    return target and {"version": target.version.number, "checksum": target.version.checksum}


def _described(outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "from": outcome.before.version.number, "to": outcome.target.version.number,
        "outcome": "refused" if outcome.why else "served", "why": outcome.why,
        "seconds": round(seconds, 3), "at": now(),
    }
