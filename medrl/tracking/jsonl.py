"""metrics.jsonl and samples.jsonl: one JSON object a line, on disk as soon as it is logged."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medrl.errors import DataError, MedrlError


class JsonlTracker:
    """`metrics.jsonl` has one object a step (`step`, `wall_time`, then the metrics), `samples.jsonl` one an answer."""

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        self._metrics = JsonLines(run_dir / "metrics.jsonl", resume_step)
        self._samples = JsonLines(run_dir / "samples.jsonl", resume_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._metrics.append([metric_row(step, metrics)])

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._samples.append([{"step": step} | dict(row) for row in rows])

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()


class JsonLines:
    """A file that grows by whole lines. With `resume_step` it goes on after that step, else it starts empty."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self._path = path
        if resume_step is not None and path.exists():
            drop_later_steps(path, resume_step)
            self._file = open(path, "a", encoding="utf-8")
        else:
            self._file = open(path, "w", encoding="utf-8")

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            self._file.write(lines)
            self._file.flush()
        except OSError as error:
            raise MedrlError(f"cannot write to {self._path}", got=str(error),
                             remedy="free some space; `--resume` continues from the newest checkpoint") from None

    def close(self) -> None:
        self._file.close()


def metric_row(step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """One row of metrics.jsonl."""
    values = {name: _number(value) for name, value in metrics.items()}
    return {"step": step, "wall_time": round(time.time(), 3)} | values


def drop_later_steps(path: Path, last_step: int) -> None:
    """Keep the rows of `path` up to `last_step`."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for line, row in read_rows(path):
            if row["step"] <= last_step:
                file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line with the row it holds. A last line torn by a kill is left out; any other bad line is a DataError."""
    # Not splitlines: an answer may hold U+2028 and its like, which JSON leaves as they are.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            float(row["step"])
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}:{number} is not a row of this run", limit="a JSON object with a number `step`",
                            remedy="restore the file or move it away, then resume again") from None
        yield line, row


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity: null."""
    value = float(value)
    return value if math.isfinite(value) else None
