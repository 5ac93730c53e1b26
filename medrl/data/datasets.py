"""Reading of training data: every row is checked, and a bad one is reported as file:line and why, never with its text.

`scan` is the stream underneath; the stages read whole sets of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medrl.config.common import DataChecks
from medrl.data.files import read_rows
from medrl.data.formats import format_name
from medrl.data.kinds import KINDS, kind_of_row
from medrl.data.rows import BadRow, RawRow
from medrl.errors import DataError
from medrl.types import Conversation, Message, PreferencePair

STRICT = DataChecks()
FIRST_ROWS = 20  # by which the kind of a file is recognised


class Row(NamedTuple):
    """A row with its place. `value` is a medrl type, by the kind: str, Conversation, PreferencePair or messages."""

    file: str
    line: int
    value: Any
    format: str = ""  # what FORMATS calls it; empty for a bad row

    @property
    def problem(self) -> BadRow | None:
        return self.value if isinstance(self.value, BadRow) else None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read_texts(path: str | Path, checks: DataChecks = STRICT) -> list[str]:
    """Passages for continued pre-training. Raises DataError."""
    return list(_good_values(path, "texts", checks))


def read_conversations(path: str | Path, checks: DataChecks = STRICT) -> list[Conversation]:
    """Conversations for SFT. Raises DataError."""
    return list(_good_values(path, "conversations", checks))


def read_pairs(path: str | Path, checks: DataChecks = STRICT) -> list[PreferencePair]:
    """Preference pairs. Raises DataError."""
    return list(_good_values(path, "pairs", checks))


def read_prompts(path: str | Path, checks: DataChecks = STRICT) -> list[tuple[Message, ...]]:
    """Conversations that wait for an answer. Raises DataError."""
    return list(_good_values(path, "prompts", checks))


def read_values(path: str | Path, kind: str, checks: DataChecks = STRICT) -> list[Any]:
    """Rows of any of KINDS as medrl's types. Raises DataError."""
    return list(_good_values(path, kind, checks))


def scan(path: str | Path, kind: str) -> Iterator[Row]:
    """Every row as one of KINDS, bad ones with a BadRow for their value. Raises DataError as `read_rows` does."""
    parse = KINDS[kind].parse
    for file, line, value in read_rows(path):
        if isinstance(value, BadRow):
            yield Row(file, line, value)
            continue
        try:
            yield Row(file, line, parse(value), format_name(value))
        except BadRow as problem:
            yield Row(file, line, problem)


def recognise(path: str | Path) -> str:
    """Which of KINDS the first rows are, by majority. Raises DataError if none of them has a known format."""
    votes: Counter[str] = Counter()
    raw: RawRow | None = None
    for _, raw in zip(range(FIRST_ROWS), read_rows(path), strict=False):
        if not isinstance(raw.value, BadRow) and (kind := kind_of_row(raw.value)):
            votes[kind] += 1
    if not votes:
        raise DataError(f"{path}: the format of the first rows is not recognised",
                        remedy="docs/data-formats.md lists the formats")
    return votes.most_common(1)[0][0]


def good_rows(rows: Iterable[Row], checks: DataChecks) -> Iterator[Row]:
    """The rows that can be used; `checks` says what becomes of the others. Raises DataError."""
    bad = 0
    for row in rows:
        if row.problem is None:
            yield row
            continue
        bad += 1
        if checks.on_bad_row == "error":
            raise DataError(f"{row.place}: {row.problem.why}", remedy=row.problem.remedy)
        print(f"{row.place}: left out: {row.problem.why}")
        if bad > checks.max_bad_rows:
            raise DataError(f"{row.file}: too many bad rows", limit=f"at most {checks.max_bad_rows} (max_bad_rows)",
                            got=f"{bad} up to line {row.line}", remedy="correct the file, or raise max_bad_rows")


class Tally:
    """Counts rows by file and format as they pass."""

    def __init__(self, kind: str) -> None:
        self._noun = KINDS[kind].noun
        self._files: dict[str, Counter[str]] = {}  # bad rows stand under the empty format

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows as they are."""
        for row in rows:
            self._files.setdefault(row.file, Counter())[row.format] += 1
            yield row

    @property
    def bad(self) -> int:
        return sum(formats[""] for formats in self._files.values())

    @property
    def good(self) -> int:
        return sum(formats.total() for formats in self._files.values()) - self.bad

    def lines(self) -> Iterator[str]:
        """One line a file: `zh_sft.jsonl: 1,000 ShareGPT conversations`."""
        for file, formats in self._files.items():
            parts = [f"{count:,} {name} {self._noun}" for name, count in formats.most_common() if name]
            parts += [f"{formats['']:,} bad rows"] if formats[""] else []
            yield f"{file}: {', '.join(parts)}"


def _good_values(path: str | Path, kind: str, checks: DataChecks) -> Iterator[Any]:
    """The values of the rows that can be used; says what each file holds when all is read."""
    tally = Tally(kind)
    for row in good_rows(tally.watch(scan(path, kind)), checks):
        yield row.value
    for line in tally.lines():
        print(line)
    if not tally.good:
        raise DataError(f"{path} has no good rows", got=f"{tally.bad:,} bad ones", remedy="correct the file")
