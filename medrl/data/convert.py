"""`medrl data convert` and `medrl data split`: data of any format as medrl's own JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from medrl.config.common import DataChecks
from medrl.data.datasets import Row, Tally, good_rows, recognise, scan
from medrl.data.identity import canonical, held_out, prompt_digest, row_digest
from medrl.errors import DataError


def run_convert(paths: Sequence[str], out: str, kind: str | None, checks: DataChecks) -> None:
    """Write all rows into one JSONL file, which appears when it is whole. Raises DataError."""
    kind = kind or recognise(paths[0])
    with new_file(Path(out)) as file:
        count = sum(_write(file, row.value) for row in _read(paths, kind, checks))
    print(f"{out}: {count:,} rows written")


def run_split(
    paths: Sequence[str], out: str, kind: str | None, fraction: float, seed: int, checks: DataChecks
) -> None:
    """Write `out`/train.jsonl and `out`/heldout.jsonl: all rows of a prompt are in one of them. Raises DataError.

    A prompt's place depends on its text and the seed alone: the same prompt of another file goes to the same side.
    """
    kind = kind or recognise(paths[0])
    parts = [Path(out, "train.jsonl"), Path(out, "heldout.jsonl")]
    prompts: tuple[set[bytes], set[bytes]] = set(), set()
    seen: set[bytes] = set()
    counts = [0, 0]
    with ExitStack() as stack:
        files = [stack.enter_context(new_file(path)) for path in parts]
        for row in _read(paths, kind, checks):
            prompt = prompt_digest(row.value)
            side = int(held_out(prompt, fraction, seed))
            prompts[side].add(prompt)
            seen.add(row_digest(row.value))
            counts[side] += _write(files[side], row.value)
        if not all(counts):
            empty = parts[counts.index(0)].name
            raise DataError(f"no prompt falls into {empty}", limit="a prompt for each side",
                            got=f"{sum(map(len, prompts)):,} prompts in all",
                            remedy="change --fraction or --seed, or give more rows")
    for path, count, keys in zip(parts, counts, prompts, strict=True):
        print(f"{path}: {count:,} rows, {len(keys):,} prompts")
    if duplicates := sum(counts) - len(seen):
        print(f"{duplicates:,} rows repeat an earlier one")


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes its place when the block ends well, and vanishes otherwise. Raises DataError."""
    if path.exists():
        raise DataError(f"{path} exists already", remedy="choose another name or remove it")
    work = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with work.open("w", encoding="utf-8") as file:
            yield file
        work.rename(path)
    except OSError as error:
        raise DataError(f"{path} was not written", got=error.strerror or type(error).__name__,
                        remedy="check the folder and the free space there") from None
    finally:
        work.unlink(missing_ok=True)


def _read(paths: Sequence[str], kind: str, checks: DataChecks) -> Iterator[Row]:
    tally = Tally(kind)
    yield from good_rows(tally.watch(chain.from_iterable(scan(path, kind) for path in paths)), checks)
    for line in tally.lines():
        print(line)


def _write(file: TextIO, value: Any) -> int:
    file.write(json.dumps(canonical(value), ensure_ascii=False) + "\n")
    return 1
