"""Answers to be audited, and chains of them."""

from __future__ import annotations

from typing import Any

from medrl.audit.key import AuditKey
from medrl.audit.record import Answer, AuditEntry, sealed
from medrl.audit.store import AuditStore
from medrl.audit.verify import Break, Head, find_break, rows
from medrl.config.audit import AuditConfig

SECRET = "a secret of the tests, long enough"


def answer(number: int, **changes: Any) -> Answer:
    values: dict[str, Any] = dict(
        request_id=f"req-{number}", time=1_790_000_000.25 + number, key_id="clinic", model_version="7",
        weight_checksum="sha256:0f0f", sampling={"temperature": 0.7, "max_tokens": 64}, prompt_tokens=10 + number,
        completion_tokens=20, finish_reason="stop", prompt=f"question {number}", answer=f"reply {number}")
    return Answer(**values | changes)


def entries(numbers: range, key: AuditKey) -> list[AuditEntry]:
    return [sealed(answer(number), key) for number in numbers]


def make_chain(config: AuditConfig, key: AuditKey, length: int) -> AuditStore:
    store = AuditStore(config, key)
    store.append(entries(range(length), key))
    return store


def verified(store: AuditStore, key: AuditKey, noted: Head | None = None) -> Head | Break:
    with store.read() as connection:
        return find_break(connection, key, noted)


def request_ids(store: AuditStore) -> list[str]:
    with store.read() as connection:
        return [row["request_id"] for row in rows(connection)]
