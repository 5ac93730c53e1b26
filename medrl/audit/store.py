"""The chain in its database: appending under one lock, reading in a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Index, MetaData, String, Table, Text, insert, inspect, select
from sqlalchemy import update as update_rows

from medrl.audit.key import AuditKey
from medrl.audit.record import GENESIS, AuditEntry, canonical, chained
from medrl.config.audit import AuditConfig
from medrl.database import exclusive, open_engine, snapshot
from medrl.errors import AuditError

METADATA = MetaData()
_COUNTS = {"choice", "time_us", "prompt_tokens", "completion_tokens"}
RECORDS = Table(
    "audit_records", METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    *(Column(field.name, BigInteger if field.name in _COUNTS else Text if field.name == "sampling" else String(200),
             nullable=False, unique=field.name == "id") for field in fields(AuditEntry)),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("audit_records_by_request", "request_id"),
    Index("audit_records_by_time", "time_us"),
)
HEADS = Table(
    "audit_head", METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("length", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("signature", String(64), nullable=False),
)
# Readers do not hold up writers, and what was committed survives a power cut.
PRAGMAS = {"journal_mode": "wal", "synchronous": "full"}


class Head(NamedTuple):
    """Where the chain ends: how many records it has, and the hash of the last."""

    length: int
    hash: str

    def signature(self, key: AuditKey) -> str:
        return key.digest("head", canonical(self).decode())


class AuditStore:
    """One chain. Any number of processes may append to it at the same time, each from one thread."""

    def __init__(self, config: AuditConfig, key: AuditKey) -> None:
        """Connects when first used. Raises ConfigError."""
        self._key = key
        self._engine = open_engine(config.url, config.timeout, PRAGMAS)
        self._last: Head | None = None

    def append(self, entries: Sequence[AuditEntry]) -> None:
        """Add the entries to the end of the chain, all or none. Those that are in it already are passed over.

        Raises DatabaseError, and AuditError when the chain's end is not the one that was signed.
        """
        if self._last is None:
            self._create()
        with exclusive(self._engine) as connection:
            head = self._extended(connection, entries)
        self._last = head

    def _create(self) -> None:
        with exclusive(self._engine) as connection:
            if not inspect(connection).has_table(HEADS.name):
                METADATA.create_all(connection)
                head = Head(0, GENESIS)
                connection.execute(insert(HEADS).values(id=1, **head._asdict(), signature=head.signature(self._key)))

    def _extended(self, connection: Connection, entries: Sequence[AuditEntry]) -> Head:
        # The head, never the newest row, says where to go on: a row cut off the end leaves a gap that is found.
        head = signed_head(connection, self._key)
        if self._last and head.length < self._last.length:
            raise AuditError("the audit chain went back", limit=f"at least {self._last.length:,} records",
                             got=f"{head.length:,}", remedy=LOOK)
        ids = [entry.id for entry in entries]
        known = set(connection.scalars(select(RECORDS.c.id).where(RECORDS.c.id.in_(ids))))
        rows: list[dict[str, Any]] = []
        for entry in entries:
            if entry.id not in known:
                rows.append(chained(entry, head.length + 1, head.hash))
                head = Head(head.length + 1, rows[-1]["hash"])
        if rows:
            connection.execute(insert(RECORDS), rows)
            connection.execute(update_rows(HEADS).values(**head._asdict(), signature=head.signature(self._key)))
        return head

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the chain. Raises DatabaseError."""
        with snapshot(self._engine) as connection:
            if not inspect(connection).has_table(RECORDS.name):
                raise AuditError("there is no audit chain in this database", remedy="check audit.url")
            yield connection

    def close(self) -> None:
        self._engine.dispose()


LOOK = "run `medrl audit verify`; keep a copy of the database for whoever looks into it"


def signed_head(connection: Connection, key: AuditKey) -> Head:
    """The chain's head. AuditError when it is missing, or was not signed with this key."""
    found = connection.execute(select(HEADS.c.length, HEADS.c.hash, HEADS.c.signature)).all()
    if len(found) != 1:
        raise AuditError("the audit chain's signed head is missing", got=f"{len(found)} heads", remedy=LOOK)
    head = Head(found[0].length, found[0].hash)
    if found[0].signature != head.signature(key):
        raise AuditError("the audit chain's head is not signed with this key",
                         remedy="use the key the chain was written with; if this is it, the head was tampered with")
    return head
