"""How many workers a run may lose before it gives up."""

from __future__ import annotations

from collections import Counter

from medrl.errors import WorkerError
from medrl.faults.events import EventLog


class FaultBudget:
    """Counts lost workers over the whole run, whatever their role."""

    def __init__(self, limit: int, events: EventLog) -> None:
        self.limit = limit
        self.events = events
        self._lost: Counter[str] = Counter()

    @property
    def spent(self) -> int:
        return self._lost.total()

    def charge(self, role: str, worker: str, reason: str) -> None:
        """One worker of `role` is lost. Raises WorkerError when it is one too many."""
        self._lost[role] += 1
        self.events.record("worker_lost", role=role, worker=worker, reason=reason)
        if self.spent > self.limit:
            raise WorkerError(
                f"the run has lost {self.spent} workers, the last one {worker}",
                limit=f"faults.limit {self.limit}",
                got=f"{reason}; in all: {', '.join(f'{role} {count}' for role, count in sorted(self._lost.items()))}",
                remedy="look for the reason (often memory) in Ray's log directory; continue with --resume",
            )
