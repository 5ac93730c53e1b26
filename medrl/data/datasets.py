"""Reading of training data: each row is checked, and a bad one is a DataError that names file:line and why.

Error texts never quote a row: rows hold what patients wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from medrl.errors import DataError
from medrl.types import Message, PreferencePair

Row = TypeVar("Row")
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) for each line that is not blank. Raises DataError."""
    empty = True
    for number, line in _lines(Path(path)):
        if not line.strip():
            continue
        empty = False
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            why = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            )
            raise _bad_row(path, number, f"not valid JSON ({why})", "write one JSON object on each line") from None
        if not isinstance(row, dict):
            raise _bad_row(
                path, number, f"a row must be a JSON object, got {_kind(row)}", "write one JSON object on each line"
            )
        yield number, row
    if empty:
        raise _empty_file(path)


def read_texts(path: str | Path) -> list[str]:
    """Passages for continued pre-training: .txt (blank lines between) or .jsonl with a `text` key. Raises DataError."""
    path = Path(path)
    if path.suffix == ".jsonl":
        return _read_rows(path, lambda row: _text(row, "text"))
    if path.suffix != ".txt":
        raise DataError(f"{path}: unknown kind of text file", limit=".txt or .jsonl", got=path.suffix or "no suffix")
    passages: list[list[str]] = [[]]
    for _, line in _lines(path):
        if line.strip():
            passages[-1].append(line.rstrip("\r\n"))
        elif passages[-1]:
            passages.append([])
    texts = ["\n".join(lines) for lines in passages if lines]
    if not texts:
        raise _empty_file(path)
    return texts


def read_conversations(path: str | Path) -> list[tuple[Message, ...]]:
    """Conversations for SFT, under `messages` or `conversations`; the last turn is the assistant's."""
    return _read_rows(path, lambda row: _ending_with("assistant", _messages(row)))


def read_pairs(path: str | Path) -> list[PreferencePair]:
    """Preference pairs: `messages`, `conversations` or `prompt`, with `chosen` and `rejected`. Raises DataError."""
    return _read_rows(path, _pair)


def read_prompts(path: str | Path) -> list[tuple[Message, ...]]:
    """Conversations that wait for an answer: `prompt`, `messages` or `conversations`. Raises DataError."""
    return _read_rows(path, _prompt)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of a UTF-8 file, read lazily."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield number, raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _bad_row(
                        path, number, f"not valid UTF-8 (byte {error.start} of the line)", "save the file as UTF-8"
                    ) from None
    except FileNotFoundError:
        raise DataError(
            f"no data file at {path}", remedy="check the path in the config; it is relative to where medrl was started"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}", got=error.strerror or type(error).__name__) from None


def _read_rows(path: str | Path, parse: Callable[[dict], Row]) -> list[Row]:
    rows = []
    for number, row in read_jsonl(path):
        try:
            rows.append(parse(row))
        except _BadRow as problem:
            raise _bad_row(path, number, problem.why, problem.remedy) from None
    return rows


def _messages(row: dict) -> tuple[Message, ...]:
    key = _one_of(row, "messages", "conversations")
    turns = row[key]
    if not isinstance(turns, list) or not turns:
        raise _BadRow(f"`{key}` must be a list of turns that is not empty, got {_kind(turns)}")
    role_key, text_key = ("role", "content") if key == "messages" else ("from", "value")
    return tuple(_turn(turn, f"{key}[{i}]", role_key, text_key) for i, turn in enumerate(turns))


def _turn(turn: object, where: str, role_key: str, text_key: str) -> Message:
    if not isinstance(turn, dict):
        raise _BadRow(f"`{where}` must be an object, got {_kind(turn)}")
    role = turn.get(role_key)
    if not isinstance(role, str) or role not in ROLES:
        raise _BadRow(f"`{where}.{role_key}` is not a known role", f"use one of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": _text(turn, text_key, where)}


def _text(row: dict, key: str, where: str = "") -> str:
    name = f"{where}.{key}" if where else key
    if key not in row:
        raise _BadRow(f"`{name}` is missing")
    text = row[key]
    if not isinstance(text, str):
        raise _BadRow(f"`{name}` must be a string, got {_kind(text)}")
    if not text.strip():
        raise _BadRow(f"`{name}` is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _BadRow(f"`{name}` holds half of a surrogate pair (a \\ud800 … \\udfff escape on its own)") from None
    return text


def _ending_with(role: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    last = messages[-1]["role"]
    if last != role:
        raise _BadRow(f"the last turn must be the {role}'s, but is the {last}'s")
    if not any(message["role"] == "user" for message in messages):
        raise _BadRow("there is no user turn")
    return messages


def _prompt(row: dict) -> tuple[Message, ...]:
    if _one_of(row, "prompt", "messages", "conversations") == "prompt":
        return ({"role": "user", "content": _text(row, "prompt")},)
    return _ending_with("user", _messages(row))


def _pair(row: dict) -> PreferencePair:
    pair = PreferencePair(_prompt(row), _text(row, "chosen"), _text(row, "rejected"))
    if pair.chosen == pair.rejected:
        raise _BadRow("`chosen` and `rejected` are the same", "remove the row: it says nothing about which is better")
    return pair


def _one_of(row: dict, *keys: str) -> str:
    found = [key for key in keys if key in row]
    if len(found) != 1:
        names = ", ".join(f"`{key}`" for key in keys)
        raise _BadRow(f"exactly one of {names} is needed, got {' and '.join(found) or 'none'}")
    return found[0]


def _kind(value: object) -> str:
    """What a JSON value is, in JSON's words; never the value itself."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    kind = names[type(value)]
    return f"an empty {kind.split()[1]}" if isinstance(value, (list, dict)) and not value else kind


class _BadRow(Exception):
    """Why a row cannot be used; becomes a DataError once file and line are known."""

    def __init__(self, why: str, remedy: str = "correct or remove the row (docs/data-formats.md)") -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


def _bad_row(path: str | Path, number: int, why: str, remedy: str) -> DataError:
    return DataError(f"{path}:{number}: {why}", remedy=remedy)


def _empty_file(path: str | Path) -> DataError:
    return DataError(f"{path} has no rows", remedy="give a file with at least one row")
