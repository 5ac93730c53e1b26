"""The chain on SQLite and on PostgreSQL: several processes append to one, and readers see one state of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medrl.audit.store import AuditStore
from medrl.audit.verify import Break, Head, find_break, rows
from medrl.config.audit import AuditConfig
from medrl.database import exclusive, open_engine
from medrl.errors import ConfigError, DatabaseError
from tests.unit.audit.answers import entries, make_chain, request_ids, verified

pytestmark = pytest.mark.heavy
PROCESSES, RECORDS = 4, 200
PROGRAM = """
import sys
from medrl.audit.writer import open_writer
from medrl.config.audit import AuditConfig
from tests.unit.audit.answers import answer
writer = open_writer(AuditConfig.model_validate_json(sys.argv[1]))
for number in range(int(sys.argv[3])):
    writer.record(answer(number, key_id=sys.argv[2]))
writer.close(60)
assert writer.counts().written == int(sys.argv[3]), writer.counts()
"""


@pytest.fixture
def config(config, database_url) -> AuditConfig:
    return config.model_copy(update={"url": database_url, "timeout": 30.0, "batch_size": 8})


def test_the_chain_of_four_processes_is_linear_and_keeps_each_one_s_order(config, key) -> None:
    command = [sys.executable, "-c", PROGRAM, config.model_dump_json()]
    writers = [subprocess.Popen([*command, f"p{n}", str(RECORDS)], stderr=subprocess.PIPE, text=True,
                                cwd=Path(__file__).parents[3]) for n in range(PROCESSES)]
    for writer in writers:
        assert writer.communicate(timeout=120)[1] == ""
        assert writer.returncode == 0
    store = AuditStore(config, key)
    found = verified(store, key)
    assert isinstance(found, Head)
    assert found.length == PROCESSES * RECORDS
    with store.read() as connection:
        keys = [(row["key_id"], row["request_id"]) for row in rows(connection)]
    for n in range(PROCESSES):
        assert [request for key_id, request in keys if key_id == f"p{n}"] == [f"req-{i}" for i in range(RECORDS)]
    store.close()


def test_a_reader_sees_the_chain_as_it_was_when_it_began(config, key) -> None:
    store = make_chain(config, key, 5)
    with store.read() as connection:
        head = find_break(connection, key)
        store.append(entries(range(5, 9), key))
        assert find_break(connection, key) == head
    assert len(request_ids(store)) == 9
    store.close()


@pytest.mark.parametrize(("statement", "seq", "how"), [
    ("UPDATE audit_records SET completion_tokens = 1 WHERE seq = 3", 3, "changed"),
    ("DELETE FROM audit_records WHERE seq = 3", 3, "removed"),
    ("DELETE FROM audit_records WHERE seq > 3", 4, "truncated"),
])
def test_tampering_is_found(config, key, statement, seq, how) -> None:
    store = make_chain(config, key, 6)
    with exclusive(open_engine(config.url, 10)) as connection:
        connection.exec_driver_sql(statement)
    found = verified(store, key)
    assert isinstance(found, Break)
    assert (found.seq, found.how) == (seq, how)
    store.close()


@pytest.mark.parametrize(("url", "message"), [
    ("mysql://host/audit", "cannot be used"), ("sqlite://", "cannot be used"), ("sqlite:///:memory:", "cannot be used"),
    ("no url", "cannot be read"), ("postgresql://medrl:hunter2@host/audit", "holds a password"),
])
def test_a_url_that_cannot_be_used_is_refused_and_its_password_not_shown(url, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_engine(url, 1)
    assert "hunter2" not in str(caught.value)


def test_a_database_that_cannot_be_reached_is_a_database_error(key, tmp_path) -> None:
    pytest.importorskip("psycopg")
    store = AuditStore(AuditConfig(url=f"postgresql://medrl@/x?host={tmp_path}", timeout=2.0), key)
    with pytest.raises(DatabaseError, match="OperationalError"):
        store.append(entries(range(1), key))
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="cannot be made"):
        AuditStore(AuditConfig(url=f"sqlite:///{tmp_path}/file/audit.db"), key).append(entries(range(1), key))
