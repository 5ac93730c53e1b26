"""Data files as rows with their places. Every format streams, so that a file larger than memory can be read.

A row's line is where it begins in the file; Parquet files and hub datasets have no lines, so that theirs is the row's
number, counted from 1.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medrl.data.json_scanner import JsonScanner, json_problem
from medrl.data.rows import BadRow, RawRow, kind_of_value
from medrl.errors import DataError

MAX_ROW_BYTES = 64 * 2**20
HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>\w+))?")


Rows = Iterator[tuple[int, "dict[str, Any] | BadRow"]]  # what a reader yields: (line, row)


def read_rows(path: str | Path) -> Iterator[RawRow]:
    """Rows of a file, of every data file below a directory in the order of their names, or of a hub dataset.

    Raises DataError for a path that is nothing of this, a file without rows, and damage that hides all that follows.
    """
    for file, reader in _sources(str(path)):
        empty = True
        for line, value in reader(file):
            empty = False
            yield RawRow(file, line, value)
        if empty:
            raise DataError(f"{file} has no rows", remedy="give a file with at least one row")


def data_files(path: str | Path) -> list[str]:
    """The files below a directory that `read_rows` would read, in its order; else the path itself."""
    return [file for file, _ in _sources(str(path))]


def _sources(path: str) -> list[tuple[str, Callable[[str], Rows]]]:
    """(file, its reader) for each file that `path` stands for."""
    if Path(path).is_dir():
        return _directory(Path(path))
    suffix = Path(path).suffix
    if suffix in READERS:
        return [(path, READERS[suffix])]
    if not Path(path).exists() and HUB_ID.fullmatch(path):
        return [(path, _hub)]
    if not Path(path).exists() and not suffix:
        raise _missing(path)
    raise DataError(f"{path}: unknown kind of data file", limit=", ".join(READERS), got=suffix or "no suffix")


def _directory(path: Path) -> list[tuple[str, Callable[[str], Rows]]]:
    files = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
    visible = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not visible:
        raise DataError(f"cannot read {path}: a directory without data files", limit=", ".join(READERS))
    return [(str(file), READERS[file.suffix]) for file in visible]


def _missing(path: str) -> DataError:
    return DataError(
        f"no data file at {path}", remedy="check the path in the config; it is relative to where medrl was started"
    )


@contextmanager
def _open(path: str):
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise DataError(f"cannot read {path}", got=error.strerror or type(error).__name__) from None


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(line number, bytes) of each line, without a byte order mark."""
    with _open(path) as file:
        number = 0
        while raw := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(raw) > MAX_ROW_BYTES:
                raise _too_large(path, number)
            yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _too_large(path: str, line: int) -> DataError:
    return DataError(
        f"{path}:{line}: the row is too large", limit=f"{MAX_ROW_BYTES >> 20} MiB", remedy="split or remove the row"
    )


def _jsonl(path: str) -> Rows:
    for number, raw in _lines(path):
        if raw.strip():
            yield number, _parsed(raw.rstrip())


def _parsed(raw: bytes) -> dict[str, Any] | BadRow:
    try:
        return _object(json.loads(raw.decode("utf-8")))
    except UnicodeDecodeError as error:
        return _not_utf8(f"byte {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return BadRow(f"not valid JSON ({json_problem(error)})", "write one JSON object on each line")


def _object(value: object) -> dict[str, Any] | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow(f"a row must be a JSON object, got {kind_of_value(value)}", "write one JSON object for each row")


def _not_utf8(where: str) -> BadRow:
    return BadRow(f"not valid UTF-8 ({where})", "save the file as UTF-8")


def _json(path: str) -> Rows:
    """An array of objects; a file that does not begin with `[` holds one object on each line."""
    with _open(path) as file:
        head = file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()
    return _array(path) if head.startswith(b"[") else _jsonl(path)


def _array(path: str) -> Rows:
    with _open(path) as file:
        scanner = JsonScanner(path, io.TextIOWrapper(file, encoding="utf-8-sig"), MAX_ROW_BYTES)
        scanner.take("[")
        if scanner.next_character() != "]":
            yield scanner.line, _object(scanner.value())
            while scanner.next_character() == ",":
                scanner.take(",")
                scanner.next_character()
                yield scanner.line, _object(scanner.value())
        scanner.take("]")
        if scanner.next_character():
            raise scanner.broken("text after the array")


def _csv(path: str) -> Rows:
    """A header, then one row of as many cells each; rows may span lines inside quotes."""
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader((raw.decode("utf-8", "surrogateescape") for _, raw in _lines(path)), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRow(f"not valid CSV ({error})", "quote cells with \" and double a \" inside them")
            continue
        if not cells:
            continue
        if not header:
            header = cells
            if len(set(header)) < len(header) or not all(header):
                raise DataError(f"{path}:{line}: column names are missing or repeated",
                                remedy="name each column once in the first line")
        elif any("\udc80" <= character <= "\udcff" for cell in cells if not cell.isascii() for character in cell):
            yield line, _not_utf8("in a cell")
        elif len(cells) != len(header):
            yield line, BadRow(f"{len(cells)} cells under {len(header)} column names", "quote cells that hold commas")
        else:
            yield line, dict(zip(header, cells, strict=True))


def _parquet(path: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with _open(path):
        pass
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _without_nulls(row)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file, or damaged after row {number}", got=str(error).split("\n")[0],
                        remedy="write the file again") from None


def _hub(path: str) -> Rows:
    """A dataset by its id: `owner/name`, `owner/name/config`, each with `:split` after it (else train)."""
    from datasets import load_dataset

    parts = HUB_ID.fullmatch(path)
    assert parts is not None
    try:
        rows = load_dataset(parts["name"], parts["config"], split=parts["split"] or "train")
    except (OSError, ValueError) as error:
        raise DataError(
            f"no data at {path}", limit="a file, a directory, or a dataset id that is in the local cache or can be had",
            got=str(error).split("\n")[0], remedy="check the path; load a dataset once where there is a network",
        ) from None
    for number, row in enumerate(rows, start=1):
        yield number, _without_nulls(dict(row))


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Columns always exist; a null says that this row lacks the key."""
    return {key: value for key, value in row.items() if value is not None}


def _txt(path: str) -> Rows:
    """Passages with blank lines between them."""
    start, size, lines = 0, 0, []
    for number, raw in _lines(path):
        if raw.strip():
            start = start if lines else number
            lines.append(raw.rstrip(b"\r\n"))
            size += len(raw)
            if size > MAX_ROW_BYTES:
                raise _too_large(path, start)
        elif lines:
            yield _passage(start, lines)
            size, lines = 0, []
    if lines:
        yield _passage(start, lines)


def _passage(start: int, lines: list[bytes]) -> tuple[int, dict[str, Any] | BadRow]:
    texts = []
    for number, raw in enumerate(lines, start):
        try:
            texts.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            return number, _not_utf8(f"byte {error.start} of the line")
    return start, {"text": "\n".join(texts)}


READERS: dict[str, Callable[[str], Rows]] = {
    ".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".txt": _txt,
}
