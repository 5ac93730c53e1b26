"""FRESH only after a whole take-over; STALE after anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.errors import WeightSyncError
from medrl.weight_sync.versions import Fresh, Stale, VersionGate


def gate_at(version: int) -> VersionGate:
    gate = VersionGate()
    with gate.change_to(version):
        pass
    return gate


def test_a_new_gate_is_stale() -> None:
    gate = VersionGate()
    assert gate.version is None and isinstance(gate.state, Stale)
    with pytest.raises(WeightSyncError, match="stale"):
        gate.require_fresh()


def test_it_is_stale_while_it_changes() -> None:
    gate = gate_at(3)
    assert gate.version == gate.require_fresh() == 3
    with gate.change_to(4):
        assert gate.version is None
        with pytest.raises(WeightSyncError, match="version 4"):
            gate.require_fresh()
    assert gate.state == Fresh(4)


@pytest.mark.parametrize("error", [WeightSyncError("probe"), RuntimeError("out of memory"), KeyboardInterrupt()])
def test_any_error_leaves_it_stale_and_comes_through(error: BaseException) -> None:
    gate = gate_at(3)
    with pytest.raises(type(error)) as caught, gate.change_to(4):
        raise error
    assert caught.value is error and gate.version is None


def test_the_same_version_may_come_again_but_an_older_one_never() -> None:
    gate = gate_at(3)
    with gate.change_to(3):
        pass
    with pytest.raises(WeightSyncError, match="older") as caught, gate.change_to(2):
        pytest.fail("the block of a refused version must not run")
    assert "3" in caught.value.limit and "2" in caught.value.got
    assert gate.version is None


def test_after_forgetting_an_older_version_may_come() -> None:
    gate = gate_at(3)
    gate.forget()
    assert gate.version is None
    with gate.change_to(2):
        pass
    assert gate.version == 2


def test_after_its_weights_were_dropped_the_same_version_may_come_but_no_older_one() -> None:
    gate = gate_at(3)
    gate.drop()
    assert gate.version is None
    with pytest.raises(WeightSyncError, match="stale") as caught:
        gate.require_fresh()
    assert "slept" in caught.value.got
    with pytest.raises(WeightSyncError, match="older"), gate.change_to(2):
        pytest.fail("the block of a refused version must not run")
    with gate.change_to(3):
        pass
    assert gate.version == 3


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_what_it_says_is_the_newest_whole_take_over_or_nothing(changes: list[tuple[int, bool]]) -> None:
    gate, newest, expected = VersionGate(), -1, None
    for version, whole in changes:
        taken = whole and version >= newest
        try:
            with gate.change_to(version):
                if not whole:
                    raise WeightSyncError("broken")
        except WeightSyncError:
            assert not taken
        if taken:
            newest = version
        expected = version if taken else None
        assert gate.version == expected
