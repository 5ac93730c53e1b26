"""A row as it stands in a file, and why it cannot be used if it cannot."""

from __future__ import annotations

from typing import Any, NamedTuple


class BadRow(Exception):
    """Why a row cannot be used, and what to do; never the row's text: rows hold what patients wrote."""

    def __init__(self, why: str, remedy: str = "correct or remove the row (docs/data-formats.md)") -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class RawRow(NamedTuple):
    """A row as it stands in a file: `RawRow("a.jsonl", 3, {"prompt": "…"})`."""

    file: str
    line: int
    value: dict[str, Any] | BadRow


def kind_of_value(value: object) -> str:
    """What a value is, in JSON's words; never the value itself."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array",
             dict: "an object"}
    kind = names.get(type(value), "a value that JSON has no word for")
    return f"an empty {kind.split()[1]}" if isinstance(value, (list, dict)) and not value else kind
