"""The writer: never in the way of an answer, and nothing lost when the database is slow, down or away."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medrl.audit.spill import SpillFile, adopt
from medrl.audit.store import AuditStore
from medrl.audit.verify import Head
from medrl.audit.writer import AuditWriter, open_writer
from medrl.config.audit import AuditConfig
from medrl.errors import AuditError
from tests.unit.audit.answers import answer, entries, make_chain, request_ids, verified

pytestmark = pytest.mark.heavy

EXPECTED = [f"req-{number}" for number in range(40)]


@contextmanager
def locked(config: AuditConfig) -> Iterator[None]:
    """A database that takes nothing: another writer holds its lock."""
    connection = sqlite3.connect(config.url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.rollback()
    connection.close()


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def record(writer: AuditWriter, numbers: range) -> None:
    for number in numbers:
        writer.record(answer(number))


def check(config: AuditConfig, key, expected: list[str] = EXPECTED) -> None:
    """All records, once each and in order, in a chain that is whole."""
    store = AuditStore(config, key)
    assert request_ids(store) == expected
    assert isinstance(verified(store, key), Head)


def spill_files(config: AuditConfig) -> list[str]:
    return [path.name for path in Path(config.spill_dir).glob("*")]


def test_close_writes_what_is_in_the_queue(config, key) -> None:
    writer = open_writer(config)
    record(writer, range(40))
    writer.close(30)
    check(config, key)
    assert (writer.counts().recorded, writer.counts().written, writer.counts().spilled) == (40, 40, 0)
    with pytest.raises(AuditError, match="closed"):
        writer.record(answer(1))


def test_a_full_queue_goes_to_the_spill_and_is_taken_in_in_order(config, key) -> None:
    store = make_chain(config, key, 0)
    slow = config.model_copy(update={"queue_size": 4, "batch_size": 1, "timeout": 60.0})
    with locked(config):
        writer = AuditWriter(slow, key, AuditStore(slow, key))
        record(writer, range(30))  # returns although the database takes nothing
        assert writer.counts().spilled >= 25  # the first may be with the thread, four are in the queue
        assert writer.counts().written == 0
    record(writer, range(30, 40))
    writer.close(60)
    check(config, key)
    assert writer.counts().lost == writer.counts().failures == 0
    assert not spill_files(config)
    store.close()


def test_a_database_that_is_down_costs_nothing_and_its_return_is_noticed(config, key) -> None:
    make_chain(config, key, 0)
    with locked(config):
        writer = open_writer(config)
        record(writer, range(20))
        wait_until(lambda: writer.counts().failures >= 2)
        assert writer.counts().spilled == 20  # what was in memory is on the disk
        record(writer, range(20, 30))
        assert writer.counts().spilled == 30
    wait_until(lambda: writer.counts().written >= 30 and not spill_files(config))
    record(writer, range(30, 40))
    writer.close(30)
    check(config, key)
    assert not spill_files(config)


def test_what_a_closed_writer_leaves_the_next_one_takes_in(config, key) -> None:
    make_chain(config, key, 0)
    with locked(config):
        writer = open_writer(config)
        record(writer, range(20))
        writer.close(0.01)  # long before the database's time is over: the batch in flight is spilled too
        assert spill_files(config)
    successor = open_writer(config)
    wait_until(lambda: not spill_files(config))
    record(successor, range(20, 40))
    successor.close(30)
    check(config, key)


def test_what_a_killed_writer_spilled_is_taken_in(config, key) -> None:
    make_chain(config, key, 0)
    program = (
        "import os, sys, time\n"
        "from medrl.audit.writer import open_writer\nfrom medrl.config.audit import AuditConfig\n"
        "from tests.unit.audit.test_writer import record\n"
        "writer = open_writer(AuditConfig.model_validate_json(sys.argv[1]))\n"
        "record(writer, range(40))\n"
        "while writer.counts().spilled < 40: time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n")
    with locked(config):
        done = subprocess.run([sys.executable, "-c", program, config.model_dump_json()], capture_output=True,
                              timeout=120, cwd=Path(__file__).parents[3], env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -9, done.stderr
    assert spill_files(config)
    successor = open_writer(config)
    wait_until(lambda: not spill_files(config))
    successor.close(30)
    check(config, key)


def test_whatever_goes_wrong_in_the_thread_the_records_are_kept_and_its_reason_is_not_quoted(
    config, key, monkeypatch, caplog
) -> None:
    store = make_chain(config, key, 0)
    append = store.append
    monkeypatch.setattr(store, "append", lambda batch: 1 / 0 if batch else None)
    writer = AuditWriter(config, key, store)
    record(writer, range(40))
    wait_until(lambda: writer.counts().failures >= 2)
    monkeypatch.setattr(store, "append", append)
    writer.close(30)
    check(config, key)
    assert "ZeroDivisionError" in caplog.text and "division by" not in caplog.text


def test_another_key_than_the_chain_s_is_an_error_at_the_start(config, key, monkeypatch) -> None:
    make_chain(config, key, 1)
    monkeypatch.setenv("MEDRL_AUDIT_KEY", "another secret of the same length")
    with pytest.raises(AuditError, match="not signed with this key"):
        open_writer(config)


def test_the_spill_of_a_living_writer_is_left_to_it(config, key, tmp_path) -> None:
    spill = SpillFile(tmp_path / "spill/one.jsonl", key)
    spill.append(entries(range(3), key))
    assert not [*adopt(tmp_path / "spill", "two", key)]
    spill.release()
    assert [file.path.name for file in adopt(tmp_path / "spill", "two", key)] == ["one.jsonl"]


@pytest.mark.parametrize("tamper", [
    lambda text: text.replace(b'"completion_tokens":20', b'"completion_tokens":21', 1),
    lambda text: b"".join(text.splitlines(keepends=True)[1:]),
    lambda text: b"".join(reversed(text.splitlines(keepends=True))),
    lambda text: b"no json\n" + text,
])
def test_a_spill_that_was_changed_is_set_aside_and_counted(config, key, tamper) -> None:
    make_chain(config, key, 0)
    leave(config, key, tamper)
    writer = open_writer(config)
    wait_until(lambda: writer.counts().damaged)
    writer.close(30)
    check(config, key, [])
    assert spill_files(config) == ["old.damaged"]


def test_the_spill_of_a_dead_writer_waits_for_a_database_that_is_down(config, key) -> None:
    make_chain(config, key, 0)
    leave(config, key, lambda text: text)
    with locked(config):
        writer = open_writer(config)
        wait_until(lambda: writer.counts().failures >= 2)
        assert spill_files(config)
    wait_until(lambda: not spill_files(config))
    writer.close(30)
    check(config, key, EXPECTED[:3])


def test_a_line_torn_by_a_kill_is_kept_and_those_before_are_taken_in(config, key) -> None:
    make_chain(config, key, 0)
    leave(config, key, lambda text: text[:-20])
    writer = open_writer(config)
    wait_until(lambda: writer.counts().damaged)
    writer.close(30)
    check(config, key, EXPECTED[:2])
    assert spill_files(config) == ["old.damaged"]


def leave(config: AuditConfig, key, tamper: Callable[[bytes], bytes]) -> None:
    """The spill of a writer that died with three records in it."""
    spill = SpillFile(Path(config.spill_dir) / "old.jsonl", key)
    spill.append(entries(range(3), key))
    spill.release()
    spill.path.write_bytes(tamper(spill.path.read_bytes()))


def test_records_that_came_twice_are_kept_once(config, key) -> None:
    store = make_chain(config, key, 0)
    batch = entries(range(40), key)
    store.append(batch[:25])
    store.append(batch)
    check(config, key)


def test_when_nothing_takes_a_record_the_caller_hears_of_it(config, key, tmp_path) -> None:
    make_chain(config, key, 0)
    (tmp_path / "spill").write_text("no folder")
    with locked(config):
        writer = open_writer(config.model_copy(update={"queue_size": 5}))
        wait_until(lambda: not fill(writer))
        with pytest.raises(AuditError, match="lost"):
            writer.record(answer(1))
        before = writer.counts()
        wait_until(lambda: writer.counts().failures > before.failures + 1)
        assert before.lost == 2
    writer.close(30)  # what was in memory stayed there and is written
    assert writer.counts().written == before.recorded - before.lost
    assert writer.counts().lost == before.lost


def fill(writer: AuditWriter) -> bool:
    try:
        writer.record(answer(0))
    except AuditError:
        return False
    return True


def test_what_is_left_at_the_end_and_fits_nowhere_is_counted(config, key, tmp_path, caplog) -> None:
    make_chain(config, key, 0)
    (tmp_path / "spill").write_text("no folder")
    with locked(config):
        writer = open_writer(config)
        record(writer, range(5))
        writer.close(30)
    assert writer.counts().lost == 5
    assert "5 records are lost" in caplog.text


def test_recording_from_many_threads(config, key) -> None:
    writer = open_writer(config)
    threads = [threading.Thread(target=record, args=(writer, range(n, 40, 4))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(30)
    store = AuditStore(config, key)
    assert sorted(request_ids(store)) == sorted(EXPECTED)
    assert isinstance(verified(store, key), Head)
