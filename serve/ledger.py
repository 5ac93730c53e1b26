"""What the API keys have used in their minute: counted in one place for all replicas."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from ray import serve
from ray.serve.handle import DeploymentHandle

from medrl.config.quotas import QuotaConfig


@dataclass(frozen=True)
class Used:
    """One quota of a key, after the request that asked for it."""

    name: str  # requests or tokens
    limit: int
    remaining: int
    reset: int  # seconds until the minute is over
    refused: bool  # the request found nothing left


class Ledger:
    """A key's minute begins with its first request and ends 60 seconds later. Kept in memory: a restart forgets."""

    def __init__(self) -> None:
        self._windows = FixedWindowRateLimiter(MemoryStorage())

    async def take(self, key: str, quota: QuotaConfig) -> list[Used]:
        """Count a request, unless a quota is used up: a request that is refused costs nothing."""
        items = _items(quota)
        refused = {name for name, item in items.items() if not self._windows.test(item, name, key)}
        if "requests" in items and not refused:
            self._windows.hit(items["requests"], "requests", key)
        found = []
        for name, item in items.items():
            stats = self._windows.get_window_stats(item, name, key)
            reset = max(0, math.ceil(stats.reset_time - time.time()))
            found.append(Used(name, item.amount, stats.remaining, reset, name in refused))
        return found

    async def charge(self, key: str, quota: QuotaConfig, tokens: int) -> None:
        """Count the tokens of an answer, be they more than what is left."""
        if item := _items(quota).get("tokens"):
            self._windows.hit(item, "tokens", key, cost=tokens)


def _items(quota: QuotaConfig) -> dict[str, RateLimitItem]:
    amounts = {"requests": quota.requests_per_minute, "tokens": quota.tokens_per_minute}
    return {name: RateLimitItemPerMinute(amount) for name, amount in amounts.items() if amount}


class RemoteLedger:
    """The one `Ledger` of the service, through Ray Serve."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def take(self, key: str, quota: QuotaConfig) -> list[Used]:
        return await self._handle.take.remote(key, quota)

    async def charge(self, key: str, quota: QuotaConfig, tokens: int) -> None:
        await self._handle.charge.remote(key, quota, tokens)


# One for all replicas, so that a quota is exact however the requests are spread.
LedgerService = serve.deployment(name="Ledger", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1000)(Ledger)
