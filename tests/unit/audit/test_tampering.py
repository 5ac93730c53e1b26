"""Whatever is done to a chain's tables without the key is found."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.audit.key import AuditKey
from medrl.audit.record import record_hash
from medrl.audit.store import RECORDS, AuditStore
from medrl.audit.verify import Break, Head
from medrl.config.audit import AuditConfig
from medrl.errors import AuditError, DatabaseError
from tests.unit.audit.answers import SECRET, entries, make_chain, verified

pytestmark = pytest.mark.heavy

LENGTH = 6
NAMES = RECORDS.columns.keys()
Rows = list[dict[str, Any]]


@pytest.fixture
def chain(config, key) -> Callable[[Callable[[Rows], object]], Head | Break]:
    """chain(tamper): what verify finds once `tamper` has changed the rows of a chain of six."""
    store = make_chain(config, key, LENGTH)
    path = config.url.removeprefix("sqlite:///")
    intact = read(path)

    def check(tamper: Callable[[Rows], object]) -> Head | Break:
        rows = [dict(row) for row in intact]
        tamper(rows)
        write(path, rows)
        return verified(store, key)

    return check


def read(path: str) -> Rows:
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM audit_records ORDER BY seq")]


def write(path: str, rows: Rows) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM audit_records")
        for row in rows:
            connection.execute(f"INSERT INTO audit_records ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                               [*row.values()])


def renumber(rows: Rows) -> None:
    for seq, row in enumerate(rows, start=1):
        row["seq"] = seq


def rehash(rows: Rows, start: int = 0, stop: int | None = None) -> None:
    """What an attacker without the key can do: renumber and chain the rows again."""
    for i, row in list(enumerate(rows))[start:stop]:
        row |= {"seq": i + 1, "prev_hash": rows[i - 1]["hash"] if i else "0" * 64}
        row["hash"] = record_hash(row)


def forged(rows: Rows, i: int) -> dict[str, Any]:
    return rows[i] | {"id": "f" * 32, "request_id": "forged"}


def test_an_intact_chain_is_whole(chain) -> None:
    head = chain(lambda rows: None)
    assert isinstance(head, Head)
    assert head.length == LENGTH


@pytest.mark.parametrize("place", [0, 2, LENGTH - 1])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "seq"])
def test_a_change_of_any_field_is_named(chain, name, place) -> None:
    def tamper(rows: Rows) -> None:
        rows[place][name] = rows[place][name] + 1 if isinstance(rows[place][name], int) else "b" * 64

    found = chain(tamper)
    assert (found.seq, found.how) == (place + 1, "changed")


@pytest.mark.parametrize("place", range(LENGTH))
def test_a_change_that_is_hashed_anew_is_named(chain, place) -> None:
    def tamper(rows: Rows) -> None:
        rows[place]["completion_tokens"] += 1
        rehash(rows, place, place + 1)

    found = chain(tamper)
    assert (found.seq, found.how) == (place + 1, "changed")


@pytest.mark.parametrize("renumbered", [False, True])
@pytest.mark.parametrize(("place", "count"), [(0, 1), (2, 1), (2, 2), (LENGTH - 2, 1)])
def test_a_removal_is_named(chain, place, count, renumbered) -> None:
    def tamper(rows: Rows) -> None:
        del rows[place : place + count]
        if renumbered:
            renumber(rows)

    found = chain(tamper)
    assert (found.seq, found.how) == (place + 1, "removed")


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("place", [0, 2, LENGTH - 1])
def test_an_insertion_is_named(chain, place, hashed) -> None:
    def tamper(rows: Rows) -> None:
        rows.insert(place, forged(rows, place))
        renumber(rows)
        if hashed:
            rehash(rows, place, place + 1)

    found = chain(tamper)
    assert (found.seq, found.how) == (place + 1, "inserted")


@pytest.mark.parametrize("hashed", [False, True])
def test_a_record_added_to_the_end_is_named(chain, hashed) -> None:
    def tamper(rows: Rows) -> None:
        rows.append(forged(rows, -1) | {"seq": LENGTH + 1})
        if hashed:
            rehash(rows, LENGTH)

    found = chain(tamper)
    assert (found.seq, found.how) == (LENGTH + 1, "inserted")


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 4), (LENGTH - 2, LENGTH - 1)])
def test_a_swap_is_named(chain, a, b) -> None:
    def tamper(rows: Rows) -> None:
        rows[a], rows[b] = rows[b], rows[a]
        renumber(rows)

    found = chain(tamper)
    assert (found.seq, found.how) == (a + 1, "reordered")


@pytest.mark.parametrize("left", range(LENGTH))
def test_a_cut_at_the_end_is_named(chain, left) -> None:
    def tamper(rows: Rows) -> None:
        del rows[left:]

    found = chain(tamper)
    assert (found.seq, found.how) == (left + 1, "truncated")
    assert f"{LENGTH - left} records" in found.why


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditStore, str]:
    """A chain for all examples of one test, and its file."""
    path = str(tmp_path_factory.mktemp("chain") / "audit.db")
    return make_chain(AuditConfig(url=f"sqlite:///{path}"), AuditKey(SECRET.encode()), LENGTH), path


@pytest.fixture(scope="module")
def original(intact: tuple[AuditStore, str]) -> Rows:
    return read(intact[1])


@given(data=st.data())
@settings(max_examples=100)
def test_any_tampering_is_found(intact, original, data) -> None:
    """A few edits of any kind, the chain behind them hashed anew from any record on or not at all."""
    store, path = intact
    rows = [dict(row) for row in original]
    for _ in range(data.draw(st.integers(1, 3))):
        edit = data.draw(st.sampled_from(["change", "delete", "insert", "swap", "truncate"]))
        at = st.integers(0, max(len(rows) - 1, 0))
        if edit == "insert" or not rows:
            rows.insert(data.draw(at), original[0] | {"id": f"{len(rows):032}"})
        elif edit == "change":
            name = data.draw(st.sampled_from([name for name in NAMES if name not in ("id", "seq")]))
            change = st.integers(-2**63, 2**63 - 1) | st.text(st.characters(codec="utf-8")) | st.floats(allow_nan=False)
            rows[data.draw(at)][name] = data.draw(change)
        elif edit == "delete":
            del rows[data.draw(at)]
        elif edit == "truncate":
            del rows[data.draw(at) :]
        else:
            a, b = data.draw(at), data.draw(at)
            rows[a], rows[b] = rows[b], rows[a]
    start = data.draw(st.integers(0, len(rows)))
    if start < len(rows) or data.draw(st.booleans()) or len({row["seq"] for row in rows}) < len(rows):
        renumber(rows)
    rehash(rows, start)
    write(path, rows)
    found = verified(store, AuditKey(SECRET.encode()))
    assert isinstance(found, Head if read(path) == original else Break)


def test_a_noted_head_shows_that_an_older_copy_was_put_back(config, key, tmp_path) -> None:
    store = make_chain(config, key, LENGTH)
    path = Path(config.url.removeprefix("sqlite:///"))
    with sqlite3.connect(path) as connection, sqlite3.connect(tmp_path / "older.db") as older:
        connection.backup(older)
    store.append(entries(range(LENGTH, LENGTH + 2), key))
    noted = verified(store, key)
    assert isinstance(noted, Head)
    with sqlite3.connect(tmp_path / "older.db") as older, sqlite3.connect(path) as connection:
        older.backup(connection)
    assert isinstance(verified(store, key), Head)  # from the inside it cannot be seen
    found = verified(store, key, noted)
    assert isinstance(found, Break)
    assert (found.seq, found.how) == (LENGTH + 1, "truncated")
    with pytest.raises(AuditError, match="went back"):  # nor does a running writer go on from there
        store.append(entries(range(9, 10), key))


def test_a_noted_head_of_another_chain_is_named(config, key) -> None:
    found = verified(make_chain(config, key, LENGTH), key, Head(3, "a" * 64))
    assert isinstance(found, Break)
    assert (found.seq, found.how) == (3, "changed")


@pytest.mark.parametrize("statement", [
    "DELETE FROM audit_head", "UPDATE audit_head SET length = 5", "UPDATE audit_head SET hash = 'x'",
    "UPDATE audit_head SET signature = 'x'", "INSERT INTO audit_head SELECT 2, length, hash, signature FROM audit_head",
])
def test_a_head_that_was_not_signed_stops_readers_and_writers(config, key, statement) -> None:
    store = make_chain(config, key, LENGTH)
    with sqlite3.connect(config.url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)
    with pytest.raises(AuditError, match="head"):
        verified(store, key)
    for writer in (store, AuditStore(config, key)):
        with pytest.raises(AuditError, match="head"):
            writer.append(entries(range(1), key))


def test_rows_cut_off_the_end_stay_missing_when_the_writer_goes_on(config, key) -> None:
    store = make_chain(config, key, LENGTH)
    with sqlite3.connect(config.url.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM audit_records WHERE seq > 4")
    store.append(entries(range(3), key))
    found = verified(store, key)
    assert isinstance(found, Break)
    assert (found.seq, found.how) == (5, "removed")


def test_another_key_does_not_pass(config, key) -> None:
    store = make_chain(config, key, LENGTH)
    with pytest.raises(AuditError, match="not signed with this key"):
        verified(store, AuditKey(b"another secret of the same length"))


def test_the_chain_is_walked_in_constant_memory(config, key) -> None:
    store = make_chain(config, key, 1100)
    peaks = [memory_of_verify(store, key)]
    store.append(entries(range(1100, 3300), key))
    peaks.append(memory_of_verify(store, key))
    assert peaks[1] < 1.2 * peaks[0]


def memory_of_verify(store: AuditStore, key: AuditKey) -> int:
    """Bytes, at most at one time."""
    tracemalloc.start()
    assert isinstance(verified(store, key), Head)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_number_that_is_none_is_found(config, key) -> None:
    store = make_chain(config, key, LENGTH)
    with sqlite3.connect(config.url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE audit_records SET seq = 'seven' WHERE seq = 3")
    assert isinstance(verified(store, key), Break)


def test_a_database_that_is_not_there_is_not_made_by_reading(config, key, tmp_path) -> None:
    with pytest.raises(DatabaseError, match="no database"):
        verified(AuditStore(config, key), key)
    assert not (tmp_path / "store").exists()
