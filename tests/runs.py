"""What a PPO run left in its folder, and whether two runs are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]


def rows(run: Path, file: str = "metrics.jsonl") -> list[Row]:
    """The rows that are complete by now; [] when there is no such file yet."""
    if not (path := run / file).exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def answers(run: Path) -> list[tuple]:
    """Every logged answer with the step and the prompt it belongs to."""
    return [(r["step"], r["prompt_id"], r["sample"], r["answer"]) for r in rows(run, "samples.jsonl")]


def same(a: list[Row], b: list[Row]) -> None:
    """Equal metrics, seconds and what follows from them aside."""
    assert [row["step"] for row in a] == [row["step"] for row in b]
    for left, right in zip(a, b, strict=True):
        names = [
            n
            for n in left
            if not n.startswith(("time/", "sync/", "wall_time")) and "per_second" not in n
            and isinstance(left[n], float)
        ]
        assert len(names) > 20
        for name in names:
            assert right[name] == pytest.approx(left[name], rel=1e-4, abs=1e-7), (left["step"], name)
