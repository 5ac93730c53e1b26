"""`medrl audit verify|show|export`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medrl.audit.key import load_key
from medrl.audit.record import record_hash
from medrl.audit.store import LOOK, RECORDS, AuditStore, Head
from medrl.audit.verify import Break, Row, find_break, rows
from medrl.config.audit import AuditConfig
from medrl.errors import AuditError, ConfigError


def run_verify(config: AuditConfig, noted: str | None) -> None:
    """Print the head of a chain that is whole. Raises AuditError with the first break.

    `noted`: "LENGTH:HASH" as an earlier call printed it; the chain must still lead through it.
    """
    head = _parse_head(noted) if noted else None
    key = load_key(config)
    with AuditStore(config, key).read() as connection:
        found = find_break(connection, key, head)
    if isinstance(found, Break):
        raise AuditError(str(found), remedy=LOOK)
    print(f"{found.length:,} records, all as they were written; head {found.length}:{found.hash}")
    for path in sorted(Path(config.spill_dir).glob("*")):
        print(f"note: {path} holds records that are not in the chain")


def run_show(config: AuditConfig, request_id: str) -> None:
    """Print a request's records, one an answer, as JSON. Raises AuditError if there is none, or one was changed."""
    with AuditStore(config, load_key(config)).read() as connection:
        found = [_readable(row) for row in rows(connection, RECORDS.c.request_id == request_id)]
    if not found:
        raise AuditError("no record of this request", remedy="check the request id")
    for record in found:
        print(json.dumps(record, indent=2))


def run_export(config: AuditConfig, since: str | None, until: str | None, form: str) -> None:
    """Print the records from `since` up to, not including, `until` (ISO 8601, UTC unless it says so) as `form`.

    Raises AuditError at one that was changed.
    """
    conditions = []
    if since:
        conditions.append(RECORDS.c.time_us >= _microseconds(since))
    if until:
        conditions.append(RECORDS.c.time_us < _microseconds(until))
    with AuditStore(config, load_key(config)).read() as connection:
        _write((_readable(row) for row in rows(connection, *conditions)), form)


def _write(records: Iterator[dict[str, Any]], form: str) -> None:
    if form == "jsonl":
        for record in records:
            print(json.dumps(record))
        return
    writer = csv.DictWriter(sys.stdout, ["time", *RECORDS.columns.keys()], lineterminator="\n")
    writer.writeheader()
    writer.writerows(record | {"sampling": json.dumps(record["sampling"])} for record in records)


def _readable(row: Row) -> dict[str, Any]:
    if record_hash(row) != row["hash"]:
        raise AuditError(f"record {row['seq']:,} was changed", remedy=LOOK)
    time = datetime.fromtimestamp(row["time_us"] / 1e6, UTC).isoformat()
    return {"time": time, **row, "sampling": json.loads(row["sampling"])}


def _microseconds(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError("this is no time", limit="ISO 8601, for example 2026-01-31 or 2026-01-31T08:00:00+08:00",
                          got=text) from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e6)


def _parse_head(text: str) -> Head:
    length, _, digest = text.partition(":")
    if not length.isdecimal() or not digest:
        raise ConfigError("this is no head of an audit chain", limit="LENGTH:HASH, as `medrl audit verify` prints it",
                          got=text)
    return Head(int(length), digest)
