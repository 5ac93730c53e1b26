"""A replica's line to the conductor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve.swap.messages import Order, Report, Target

logger = logging.getLogger("ray.serve")
RETRY_SECONDS = 0.5
T = TypeVar("T")


class Link:
    """Asks the conductor again and again, through its restarts."""

    def __init__(self, conductor: DeploymentHandle) -> None:
        self._conductor = conductor
        self._name = serve.get_replica_context().replica_id.unique_id
        self._actor = ray.get_runtime_context().current_actor

    async def first_target(self) -> Target:
        """The version to load first; it takes as long as a swap that runs."""
        while (target := await self._persist(self._conductor.first_target.remote)) is None:
            pass
        return target

    async def next_order(self, report: Report) -> Order | None:
        """What to do after this report; None: ask again."""
        return await self._persist(self._conductor.next_order.remote, self._name, self._actor, report)

    async def _persist(self, call: Callable[..., Awaitable[T]], *values: Any) -> T:
        while True:
            try:
                return await call(*values)
            except (RayError, RayServeException) as error:
                logger.warning("the conductor does not answer: %s", type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
