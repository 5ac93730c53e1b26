"""Handles of the workers that hold one role, and calls on them that can be waited for together."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from medrl.errors import MedrlError, WorkerError, WorkerLost

T = TypeVar("T")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray writes for terminals
TICK_S = 0.05  # waiting for one thing, between two looks at another
DEATH_NOTICE_S = 30.0  # ranks that feel a peer's death fail at once; Ray may need so long to notice a dead node


@dataclass(frozen=True)
class Pending(Generic[T]):
    """A call that runs on one or more workers. `result()` waits, at most `timeout` seconds."""

    refs: Sequence[ray.ObjectRef]
    combine: Callable[[list[Any]], T]
    role: str
    what: str  # "update", for errors
    timeout: float

    def result(self, meanwhile: Callable[[], None] | None = None) -> T:
        """Raises WorkerLost when workers died or did not answer in time, and what a worker raised.

        `meanwhile` is called again and again until then; it should not wait.
        """
        return self.combine(self._get(meanwhile))

    def _get(self, meanwhile: Callable[[], None] | None) -> list[Any]:
        deadline = time.monotonic() + self.timeout
        try:
            while meanwhile and time.monotonic() + TICK_S < deadline:
                with suppress(GetTimeoutError):
                    return ray.get(list(self.refs), timeout=TICK_S)
                meanwhile()
            return ray.get(list(self.refs), timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            done, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0, fetch_local=False)
            silent = [i for i, ref in enumerate(self.refs) if ref not in done]
            raise self._lost(
                silent, "did not finish in time", f"no answer within {self.timeout:g} s",
                "raise the matching timeouts.* setting if the work is really that long",
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, MedrlError):
                raise error.cause from error
            if dead := self._dead(DEATH_NOTICE_S if len(self.refs) > 1 else 0.0):
                raise self._death(dead, error) from error
            raise WorkerError(
                f"{self.role} {self.what} failed", got=f"{type(error.cause).__name__}: {error.cause}",
                remedy="the traceback above names the place",
            ) from error
        except (RayActorError, ObjectLostError) as error:
            raise self._death(self._dead(0.0), error) from error

    def _dead(self, patience: float) -> list[int]:
        """Which workers died during the call, waiting at most `patience` seconds for the news."""
        ray.wait(list(self.refs), num_returns=len(self.refs), timeout=patience, fetch_local=False)
        return [i for i, ref in enumerate(self.refs) if _died(ref)]

    def _death(self, dead: list[int], error: Exception) -> WorkerLost:
        return self._lost(dead, "broke off", COLOUR.sub("", str(error).splitlines()[0]),
                          "look for the reason (often memory) in Ray's log directory; continue with --resume")

    def _lost(self, numbers: list[int], how: str, reason: str, remedy: str) -> WorkerLost:
        names = tuple(f"{self.role} {i}" for i in numbers) or (self.role,)
        lost = WorkerLost(f"{self.role} {self.what} {how}", limit=f"an answer of all {len(self.refs)} workers",
                          got=f"{', '.join(names)}: {reason}", remedy=remedy)
        lost.role, lost.workers = self.role, names
        return lost


def _died(ref: ray.ObjectRef) -> bool:
    try:
        ray.get(ref, timeout=0)
    except (RayActorError, ObjectLostError):
        return True
    except (GetTimeoutError, RayTaskError):
        return False
    return False


def gather(*pending: Any, meanwhile: Callable[[], None] | None = None) -> tuple:
    """The results of calls that run at the same time; None for a role the run does not have.

    `meanwhile` is called again and again until they are there; it should not wait.
    """
    return tuple(call.result(meanwhile) if call is not None else None for call in pending)


class WorkerGroup:
    """N workers of one role and the placement group they sit in."""

    def __init__(self, role: str, handles: list, placement: PlacementGroup) -> None:
        self.role = role
        self.handles = handles
        self._placement = placement

    def __len__(self) -> int:
        return len(self.handles)

    @property
    def members(self) -> dict[int, Any]:
        """Each worker's handle, by its number."""
        return dict(enumerate(self.handles))

    def pending(
        self,
        refs: Sequence[ray.ObjectRef],
        what: str,
        timeout: float,
        combine: Callable[[list[Any]], Any] = lambda results: results[0],
    ) -> Pending:
        """Refs of this group's workers as one call."""
        return Pending(refs, combine, self.role, what, timeout)

    def shutdown(self) -> None:
        """Kill the workers and free their resources."""
        for handle in self.handles:
            ray.kill(handle)
        remove_placement_group(self._placement)
