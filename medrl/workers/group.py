"""Handles of the workers that hold one role, and calls on them that can be waited for together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from medrl.errors import MedrlError, WorkerError

T = TypeVar("T")


@dataclass(frozen=True)
class Pending(Generic[T]):
    """A call that runs on one or more workers. `result()` waits, at most `timeout` seconds."""

    refs: Sequence[ray.ObjectRef]
    combine: Callable[[list[Any]], T]
    what: str  # "policy update", for errors
    timeout: float

    def result(self) -> T:
        return self.combine(self._get())

    def _get(self) -> list[Any]:
        try:
            return ray.get(list(self.refs), timeout=self.timeout)
        except GetTimeoutError:
            done, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)
            silent = [i for i, ref in enumerate(self.refs) if ref not in done]
            raise WorkerError(
                f"{self.what} did not finish in time",
                limit=f"an answer within {self.timeout:g} s",
                got=f"no answer from worker{'s' * (len(silent) > 1)} {silent} of {len(self.refs)}",
                remedy="raise the matching timeouts.* setting if the work is really that long",
            ) from None
        except RayTaskError as error:
            raise self._translate(error.cause) from error
        except RayActorError as error:
            raise WorkerError(
                f"a worker died during {self.what}",
                got=str(error).splitlines()[0],
                remedy="look for the reason (often memory) in Ray's log directory; continue with --resume",
            ) from error

    def _translate(self, cause: BaseException) -> MedrlError:
        if isinstance(cause, MedrlError):
            return cause
        return WorkerError(
            f"{self.what} failed", got=f"{type(cause).__name__}: {cause}", remedy="the traceback above names the place"
        )


def gather(*pending: Pending | None) -> tuple:
    """The results of calls that run at the same time; None for a role the run does not have."""
    return tuple(call.result() if call is not None else None for call in pending)


class WorkerGroup:
    """N workers of one role and the placement group they sit in."""

    def __init__(self, role: str, handles: list, placement: PlacementGroup) -> None:
        self.role = role
        self.handles = handles
        self._placement = placement

    def __len__(self) -> int:
        return len(self.handles)

    def pending(
        self,
        refs: Sequence[ray.ObjectRef],
        what: str,
        timeout: float,
        combine: Callable[[list[Any]], Any] = lambda results: results[0],
    ) -> Pending:
        """Refs of this group's workers as one call."""
        return Pending(refs, combine, f"{self.role} {what}", timeout)

    def shutdown(self) -> None:
        """Kill the workers and free their resources."""
        for handle in self.handles:
            ray.kill(handle)
        remove_placement_group(self._placement)
