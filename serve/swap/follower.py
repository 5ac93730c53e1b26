"""A replica's side of a swap: it does what the conductor says, one order after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from medrl.config.swap import SwapConfig
from medrl.errors import MedrlError, ModelError, WorkerError
from serve.swap.compatible import check_loadable
from serve.swap.gate import Gate
from serve.swap.messages import Action, Order, Report, Target, agree
from serve.versions import ServedVersion

logger = logging.getLogger("ray.serve")


class Loader(Protocol):
    """Changes the weights of the replica's engine. See `serve.swap.weights.Weights`."""

    async def load(self, target: Target, limit: float) -> tuple[float, ...]: ...


class Follower:
    """Carries out orders on one replica, and reports after each."""

    def __init__(
        self, ask: Callable[[Report], Awaitable[Order | None]], gate: Gate, weights: Loader, config: SwapConfig,
        loaded: Target, probe: tuple[float, ...],
    ) -> None:
        self.report = Report(loaded, probe=probe)
        self._ask, self._gate, self._weights, self._config = ask, gate, weights, config
        self._probes: dict[ServedVersion, tuple[float, ...]] = {loaded.version: probe}

    async def run(self) -> None:
        """Follow until the replica has to be replaced."""
        while not self._gate.broken:
            order = await self._ask(self.report)
            if order and order.number > self.report.done:
                await self._carry_out(order)

    async def _carry_out(self, order: Order) -> None:
        failure = None
        try:
            await getattr(self, f"_{order.action}")(order.target)
        except Exception as error:  # whatever it is, the others have to hear of it
            failure = str(error) if isinstance(error, MedrlError) else f"{type(error).__name__}: {error}"
            logger.error("%s version %s: %s", order.action, order.target.version.number, failure)
            if order.action is Action.SERVE:  # there is no way back from here
                self._gate.give_up()
        self.report = replace(self.report, done=order.number, failure=failure)

    async def _prepare(self, target: Target) -> None:
        assert self.report.loaded
        await asyncio.to_thread(check_loadable, target, self.report.loaded)

    async def _load(self, target: Target) -> None:
        limit = self._config.drain_seconds
        try:
            await self._gate.close(limit)
        except TimeoutError:
            raise WorkerError("answers were still running", limit=f"drain_seconds {limit:g}",
                              remedy="ask for the swap again: POST /admin/swap") from None
        self.report = replace(self.report, loaded=None, serving=False)
        probe = await self._weights.load(target, limit)
        if not agree([probe, self._probes.setdefault(target.version, probe)]):
            raise ModelError(f"version {target.version.number} does not answer as it did before")
        self.report = replace(self.report, loaded=target, probe=probe)

    async def _serve(self, target: Target) -> None:
        if self.report.loaded != target:
            await self._load(target)
        self.report = replace(self.report, serving=True, served=target)
        self._gate.open(target.version)
