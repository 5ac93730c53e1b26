"""The champion follows from the events."""

from __future__ import annotations

import pytest

from medrl.errors import RegistryError
from medrl.registry.history import Event, champions, read_events


def events(*steps: int | str) -> list[Event]:
    """A number promotes that version, "back" rolls back."""
    return [Event(i, "rollback" if step == "back" else "promote", 0 if step == "back" else int(step), None, "me", "now")
            for i, step in enumerate(steps, 1)]


@pytest.mark.parametrize(("steps", "stack"), [
    ((), []), ((3,), [3]), ((1, 2, 3), [1, 2, 3]), ((1, 2, "back"), [1]), ((1, 2, 3, "back", "back"), [1]),
    ((1, 2, "back", 3), [1, 3]), ((1, 2, "back", 3, "back"), [1]), ((1, 2, 1, "back"), [1, 2]),
])
def test_rollbacks_walk_back_one_champion_each(steps, stack) -> None:
    assert champions(events(*steps)) == stack


def test_events_come_back_from_the_tags_in_order() -> None:
    made = [Event(i, "promote", i % 2, None, "李", "2026-01-01T00:00:00+00:00", "why", ("a: b",)) for i in range(1, 12)]
    tags = [{"record": "{}"} | {e.tag: e.to_json() for e in made if e.version == v} for v in (1, 0)]
    assert read_events(tags) == made


def test_a_deleted_event_is_noticed() -> None:
    tags = [{event.tag: event.to_json()} for event in events(1, 2, 3)]
    with pytest.raises(RegistryError, match="gaps"):
        read_events([tags[0], tags[2]])
