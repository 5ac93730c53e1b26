"""`medrl data check`: every row of every file, and prompts that training and test data share."""

from __future__ import annotations

from collections.abc import Sequence

from medrl.data.datasets import Tally, recognise, scan
from medrl.data.files import data_files
from medrl.data.identity import prompt_digest
from medrl.errors import DataError


def run_data_check(paths: Sequence[str], kind: str | None, against: str | None, show: int) -> None:
    """Print what each file holds and the first `show` problems of each.

    `against`: data whose prompts must not be in `paths`. Raises DataError when there is a bad row or a shared prompt.
    """
    other = _prompts(against) if against else frozenset()
    files = [file for path in paths for file in data_files(path)]
    found = [_check(file, kind or recognise(file), other, show) for file in files]
    bad, leaks = (sum(counts) for counts in zip(*found, strict=True))
    if leaks:
        print(f"{leaks:,} rows share their prompt with {against}")
    if bad or leaks:
        raise DataError(f"{bad:,} bad rows" + (f" and {leaks:,} rows with prompts of {against}" if against else ""),
                        limit="none", remedy="correct or remove these rows; `medrl data split` parts data by prompts")


def _check(file: str, kind: str, other: frozenset[bytes], show: int) -> tuple[int, int]:
    """(bad rows, rows with prompts among `other`) of one file."""
    tally, leaks, problems = Tally(kind), 0, 0
    for row in tally.watch(scan(file, kind)):
        if row.problem:
            why = row.problem.why
        elif other and prompt_digest(row.value) in other:
            leaks, why = leaks + 1, "the prompt is in the other data too"
        else:
            continue
        problems += 1
        if problems <= show:
            print(f"{row.place}: {why}")
    if problems > show:
        print(f"… and {problems - show:,} more problems")
    for line in tally.lines():
        print(line)
    return tally.bad, leaks


def _prompts(path: str) -> frozenset[bytes]:
    return frozenset(prompt_digest(row.value) for file in data_files(path) for row in scan(file, recognise(file))
                     if not row.problem)
