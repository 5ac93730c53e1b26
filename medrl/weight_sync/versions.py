"""Which weights a generator holds: FRESH (one proven version) or STALE (anything else)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from medrl.errors import WeightSyncError


@dataclass(frozen=True)
class Fresh:
    """The engine provably holds this version."""

    version: int


@dataclass(frozen=True)
class Stale:
    """Nobody knows what the engine holds; it may not sample."""

    reason: str


class VersionGate:
    """The state of one generator. It opens only after a complete take-over; versions go backwards only
    after `forget`."""

    def __init__(self) -> None:
        self.state: Fresh | Stale = Stale("it has not received any weights yet")
        self._newest = -1

    @property
    def version(self) -> int | None:
        """The proven version, None while STALE."""
        return self.state.version if isinstance(self.state, Fresh) else None

    def require_fresh(self) -> int:
        """The proven version. Raises WeightSyncError while STALE."""
        if isinstance(self.state, Stale):
            raise WeightSyncError("this generator is stale and may not sample", got=self.state.reason,
                                  remedy="sync weights first; after a failed sync resume from the last checkpoint")
        return self.state.version

    def forget(self) -> None:
        """The learners went back to a checkpoint: the version that comes next may be older than the one held."""
        self.state = Stale("the learners went back to an earlier version")
        self._newest = -1

    def drop(self) -> None:
        """The engine holds nothing any more; no older version may come."""
        self.state = Stale("the engine has slept without its weights")

    @contextmanager
    def change_to(self, version: int) -> Iterator[None]:
        """STALE inside the block; FRESH(version) if and only if the block ends without an exception."""
        self.state = Stale(f"version {version} did not arrive whole")
        if version < self._newest:
            raise WeightSyncError("weights older than the ones this generator held",
                                  limit=f"version {self._newest} or newer", got=f"version {version}",
                                  remedy="report it: learners and rollouts disagree about where the run stands")
        yield
        self._newest = version
        self.state = Fresh(version)
