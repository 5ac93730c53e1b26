"""Request ids: whose request it was can be told by every replica, and by nobody else."""

from __future__ import annotations

import pytest

from medrl.database import LABEL
from serve.request_ids import RequestIds

IDS = RequestIds(b"secret")


def asked(key: str | None) -> dict:
    return {"type": "http", "headers": [(b"authorization", f"Bearer {key}".encode())] if key else []}


def test_another_replica_knows_the_same_key_again() -> None:
    made = [IDS.new(asked("a")) for _ in range(20)]
    assert len({*made}) == 20 and all(LABEL.fullmatch(request_id) for request_id in made)
    replica = RequestIds(b"secret")
    assert all(replica.same_key(request_id, asked("a")) for request_id in made)
    assert replica.same_key(IDS.new(asked(None)), asked(None))


@pytest.mark.parametrize("key", ["b", "a ", "A", "", None])
def test_another_key_is_not_the_same(key: str | None) -> None:
    assert not IDS.same_key(IDS.new(asked("a b")), asked(key))


@pytest.mark.parametrize("changed", ["", "x", "é" * 40, "0" * 40])
def test_an_id_that_was_made_up(changed: str) -> None:
    assert not IDS.same_key(changed, asked("a"))


def test_an_id_that_was_changed_or_made_by_another_service() -> None:
    request_id = IDS.new(asked("a"))
    for place in (0, 23, 24, 39):
        digit = "0" if request_id[place] != "0" else "1"
        assert not IDS.same_key(request_id[:place] + digit + request_id[place + 1:], asked("a"))
    assert not IDS.same_key(request_id[:-1], asked("a")) and not IDS.same_key(request_id + "0", asked("a"))
    assert not RequestIds(b"other").same_key(request_id, asked("a"))
