"""Who made which version the champion, when and why. Events are only ever added; the champion follows from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from medrl.errors import RegistryError

TAG = "event-"  # of an MLflow model version: event-000001, … over all versions


@dataclass(frozen=True)
class Event:
    """One change of the champion. `overruled`: the gate's failures that a forced promotion passed over."""

    number: int  # 1, 2, …
    action: Literal["promote", "rollback"]
    version: int  # the champion from now on
    before: int | None  # the champion until now
    by: str
    at: str  # ISO 8601, UTC
    reason: str | None = None
    overruled: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        return f"{TAG}{self.number:06d}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Event:
        values = json.loads(text)
        return cls(**values | {"overruled": tuple(values["overruled"])})


def read_events(tags: Iterable[Mapping[str, str]]) -> list[Event]:
    """The events in the tags of all versions, in order. RegistryError when one is missing."""
    events = [Event.from_json(text) for each in tags for tag, text in each.items() if tag.startswith(TAG)]
    events.sort(key=lambda event: event.number)
    if [event.number for event in events] != list(range(1, len(events) + 1)):
        raise RegistryError("the history of promotions has gaps", limit=f"events 1 to {events[-1].number}",
                            got=f"{len(events)} events", remedy="restore the versions that were deleted in MLflow")
    return events


def champions(events: Iterable[Event]) -> list[int]:
    """The champion (last) and those that rollbacks go back to, one after the other.

    Example: promote 1, 2, 3, then two rollbacks: [1]; promote 4 then: [1, 4].
    """
    stack: list[int] = []
    for event in events:
        if event.action == "promote":
            stack.append(event.version)
        else:
            stack.pop()
    return stack
