"""The table of what a member can be: every pair of state and event is in it or refused."""

from __future__ import annotations

import itertools

import pytest

from medrl.faults.states import TRANSITIONS, Action, Event, State, transition

REFUSED = {
    (State.STARTING, Event.SYNCED), (State.STALE, Event.STARTED), (State.FRESH, Event.STARTED),
    (State.FRESH, Event.SYNCED),
}


@pytest.mark.parametrize(("state", "event"), itertools.product(State, Event))
def test_every_pair_is_in_the_table_or_refused(state: State, event: Event) -> None:
    if (state, event) not in REFUSED:
        assert transition(state, event) == TRANSITIONS[state, event]
        return
    with pytest.raises(ValueError, match=f"a {state.value} member cannot be {event.value}"):
        transition(state, event)


def test_work_begins_only_when_up_to_date_and_whatever_is_lost_is_replaced() -> None:
    assert {s for s, action in TRANSITIONS.values() if action is Action.WORK} == {State.FRESH}
    assert all(TRANSITIONS[state, Event.LOST] == (State.STARTING, Action.REPLACE) for state in State)
    assert not any(TRANSITIONS.get((state, Event.OUTDATED), (None,))[0] is State.FRESH for state in State)


def test_a_learner_group_goes_the_same_way() -> None:
    state, did = State.FRESH, []
    for event in (Event.LOST, Event.STARTED, Event.SYNCED):  # its workers died, are there again, have restored
        state, action = transition(state, event)
        did.append(action)
    assert state is State.FRESH and did == [Action.REPLACE, Action.CATCH_UP, Action.WORK]
