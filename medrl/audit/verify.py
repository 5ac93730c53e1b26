"""Walking the chain: is it whole, and if not, which record is the first that is wrong, and how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, select

from medrl.audit.key import AuditKey
from medrl.audit.record import GENESIS, record_hash
from medrl.audit.store import RECORDS, Head, signed_head

Row = dict[str, Any]
ROWS_AT_A_TIME = 1000


class Break(NamedTuple):
    """The first record that is wrong."""

    seq: int
    how: Literal["changed", "removed", "inserted", "reordered", "truncated"]
    why: str

    def __str__(self) -> str:
        return f"record {self.seq:,} was {self.how}: {self.why}" if self.how != "truncated" else (
            f"the chain was truncated before record {self.seq:,}: {self.why}")


def rows(connection: Connection, *conditions: Any) -> Iterator[Row]:
    """Records in order, a thousand in memory at a time."""
    query = select(RECORDS).where(*conditions).order_by(RECORDS.c.seq)
    result = connection.execution_options(yield_per=ROWS_AT_A_TIME).execute(query)
    return (dict(row) for row in result.mappings())


def find_break(connection: Connection, key: AuditKey, noted: Head | None = None) -> Head | Break:
    """The signed head of a chain that is whole, or its first break.

    `noted`: a head that was written down earlier; the chain must still lead through it. Raises AuditError when the
    head is missing or not signed with `key`.
    """
    head = signed_head(connection, key)
    end = Head(0, GENESIS)
    before: Row | None = None
    for row in rows(connection):
        if row["seq"] != end.length + 1 or row["prev_hash"] != end.hash or record_hash(row) != row["hash"]:
            return _Diagnosis(connection, head, end, before, row).of_row()
        end, before = Head(row["seq"], row["hash"]), row
        if end.length == head.length and end.hash != head.hash:
            moved = next(rows(connection, RECORDS.c.hash == head.hash), None)
            return Break(end.length, "inserted" if moved else "changed", "the signed head ends in another hash")
        if end.length > head.length:
            return Break(end.length, "inserted", f"the signed head counts {head.length:,} records")
        if noted and end.length == noted.length and end.hash != noted.hash:
            return Break(end.length, "changed", "it is not the record that was noted")
    if missing := max(head.length, noted.length if noted else 0) - end.length:
        return Break(end.length + 1, "truncated", f"{missing:,} records are missing at the end")
    return head


class _Diagnosis(NamedTuple):
    """What can be said of the first row that does not continue the chain."""

    connection: Connection
    head: Head  # the signed one
    end: Head  # where the chain was whole
    before: Row | None  # the last row of it
    row: Row

    def of_row(self) -> Break:
        seq, row, before = self.end.length + 1, self.row, self.before
        if not isinstance(row["seq"], int):
            return Break(seq, "inserted", "its number is none")
        if not seq <= row["seq"] <= self.head.length:
            return Break(row["seq"], "inserted", f"the chain has the numbers 1 to {self.head.length:,}")
        place = self._place()
        if before and place == before["seq"] and row["prev_hash"] == before["prev_hash"]:
            return Break(seq - 1, "inserted", f"the record that belongs there stands at {row['seq']:,}")
        if moved := self._successor():
            if place is None:
                return Break(row["seq"], "inserted", f"the record that belongs there stands at {moved}")
            return Break(seq, "reordered", f"it stands at {moved}")
        if row["seq"] > seq:
            return Break(seq, "removed", f"the next one there is number {row['seq']:,}")
        if place is None:
            return Break(seq, "changed", "its hash is not that of what it holds")
        if place != seq:
            return Break(seq, "removed", f"record {place:,} stands in its place")
        return self._of_rehashed()

    def _of_rehashed(self) -> Break:
        """The row is whole, but not built on the one before: one of the two was changed and hashed anew."""
        seq, own = self.end.length + 1, self.row["hash"]
        later = rows(self.connection, RECORDS.c.prev_hash == own, RECORDS.c.seq == seq + 1)
        if seq > 1 and (self.head == (seq, own) or next(later, None)):
            return Break(seq - 1, "changed", "the next record was built on another hash")
        return Break(seq, "changed", "it was not built on the record before")

    def _successor(self) -> int | None:
        """Where the record that continues the chain stands, if it was moved."""
        seq = self.end.length + 1
        candidates = rows(self.connection, RECORDS.c.prev_hash == self.end.hash, RECORDS.c.seq != seq)
        return next((row["seq"] for row in candidates if _hash_at(row, seq) == row["hash"]), None)

    def _place(self) -> int | None:
        """The number under which the row's hash is right; None if it was changed otherwise."""
        seq = self.row["seq"]
        nearby = (seq, seq - 1, seq + 1)  # nearly always one of these: all others take a second per 100,000
        places = (*nearby, *range(1, self.head.length + 1))
        return next((place for place in places if _hash_at(self.row, place) == self.row["hash"]), None)


def _hash_at(row: Row, seq: int) -> str:
    return record_hash({**row, "seq": seq})
