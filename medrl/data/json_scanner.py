"""JSON values one by one from text that is read piece by piece, with the line each begins on."""

from __future__ import annotations

import json
import re
from typing import TextIO

from medrl.errors import DataError

CHUNK = 2**20  # characters read at a time
WHITE_SPACE = re.compile(r"[ \t\r\n]*")


class JsonScanner:
    """Walks through JSON text whose values have at most `limit` characters. Raises DataError with the line."""

    def __init__(self, path: str, source: TextIO, limit: int) -> None:
        self._path, self._source, self._limit = path, source, limit
        self._buffer, self._position = "", 0
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1

    def next_character(self) -> str:
        """The next character that is no white space, not taken yet; empty at the end."""
        while True:
            end = WHITE_SPACE.match(self._buffer, self._position).end()  # type: ignore[union-attr]
            self._go_to(end)
            if end < len(self._buffer) or not self._read_more():
                return self._buffer[self._position : self._position + 1]

    def take(self, character: str) -> None:
        if self.next_character() != character:
            raise self.broken(f"`{character}` expected")
        self._go_to(self._position + 1)

    def value(self) -> object:
        """The value that begins here. More is read until it is whole and something follows it."""
        while True:
            problem, value, end = "the value goes on beyond the end of the file", None, len(self._buffer)
            try:
                value, end = self._decode(self._buffer, self._position)
            except (ValueError, RecursionError) as error:
                problem = error.msg if isinstance(error, json.JSONDecodeError) else json_problem(error)
            if end < len(self._buffer):
                self._go_to(end)
                return value
            if len(self._buffer) - self._position > self._limit:
                raise self.broken(f"{problem}, or a row of more than {self._limit >> 20} Mi characters")
            if not self._read_more():
                raise self.broken(problem)

    def broken(self, why: str) -> DataError:
        return DataError(
            f"{self._path}:{self.line}: not valid JSON ({why})",
            remedy="correct the row that begins there; JSONL files can skip such rows",
        )

    def _go_to(self, position: int) -> None:
        self.line += self._buffer.count("\n", self._position, position)
        self._position = position

    def _read_more(self) -> bool:
        """Twice as much as is left, so that a long row is not parsed many times over."""
        rest = self._buffer[self._position :]
        try:
            more = self._source.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError:
            raise DataError(f"{self._path}:{self.line}: not valid UTF-8 in the row that begins there or the next ones",
                            remedy="save the file as UTF-8") from None
        self._buffer, self._position = rest + more, 0
        return bool(more)


def json_problem(error: Exception) -> str:
    """Why text is no JSON, without any of the text."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number with too many digits"
