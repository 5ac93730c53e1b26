"""What a worker, or a group of learners that lives and dies as one, can be, and what makes it something else.

Being up to date means that a rollout engine provably holds the newest weights, and that a learner group has restored
the checkpoint. A scorer has nothing to catch up with: it is FRESH as soon as it has started.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    STARTING = "starting"  # asked for, waiting for room or loading its model
    STALE = "stale"  # ready, but not up to date: it gets no work
    FRESH = "fresh"  # up to date


class Event(Enum):
    STARTED = "started"
    SYNCED = "synced"  # it is up to date
    OUTDATED = "outdated"  # there is something newer than what it has
    LOST = "lost"  # it died or fell silent


class Action(Enum):
    """What has to be done about the member."""

    WAIT = "wait"
    CATCH_UP = "catch up"
    WORK = "work"
    REPLACE = "replace"  # the new one is STARTING


TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.STARTING, Event.STARTED): (State.STALE, Action.CATCH_UP),
    (State.STARTING, Event.OUTDATED): (State.STARTING, Action.WAIT),
    (State.STARTING, Event.LOST): (State.STARTING, Action.REPLACE),
    (State.STALE, Event.SYNCED): (State.FRESH, Action.WORK),
    (State.STALE, Event.OUTDATED): (State.STALE, Action.CATCH_UP),
    (State.STALE, Event.LOST): (State.STARTING, Action.REPLACE),
    (State.FRESH, Event.OUTDATED): (State.STALE, Action.CATCH_UP),
    (State.FRESH, Event.LOST): (State.STARTING, Action.REPLACE),
}


def transition(state: State, event: Event) -> tuple[State, Action]:
    """What comes of `event`. Raises ValueError for one that cannot happen in `state`."""
    if (state, event) not in TRANSITIONS:
        raise ValueError(f"a {state.value} member cannot be {event.value}")
    return TRANSITIONS[state, event]
