"""metrics.jsonl and samples.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medrl.errors import DataError, MedrlError
from medrl.tracking.jsonl import JsonlTracker, drop_later_steps, read_rows


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(folder: Path, steps: list[int], resume_step: int | None = None, value: float = 0.0) -> None:
    tracker = JsonlTracker(folder, resume_step)
    for step in steps:
        tracker.log(step, {"a/b": value})
        tracker.log_samples(step, [{"answer": "多休息\nrest", "score": value}] * 2)
    tracker.close()


def test_one_object_a_step_and_one_an_answer(tmp_path: Path) -> None:
    run(tmp_path, [1, 2], value=0.1)
    metrics = rows(tmp_path / "metrics.jsonl")
    assert [set(row) for row in metrics] == [{"step", "wall_time", "a/b"}] * 2
    assert [(row["step"], row["a/b"]) for row in metrics] == [(1, 0.1), (2, 0.1)]
    samples = rows(tmp_path / "samples.jsonl")
    assert [row["step"] for row in samples] == [1, 1, 2, 2]
    assert samples[0]["answer"] == "多休息\nrest"
    assert "多休息" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8")  # readable, not escaped


def test_an_answer_may_hold_any_line_separator(tmp_path: Path) -> None:
    answers = ["one\u2028two", "a\x85b", "c\x0bd\r\ne"]
    tracker = JsonlTracker(tmp_path)
    tracker.log_samples(1, [{"answer": answer} for answer in answers])
    tracker.close()
    JsonlTracker(tmp_path, resume_step=1).close()
    assert [row["answer"] for _, row in read_rows(tmp_path / "samples.jsonl")] == answers


def test_numbers_keep_every_digit_and_undefined_ones_become_null(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path)
    tracker.log(1, {"a": 0.1 + 0.2, "b": float("nan"), "c": float("-inf"), "d": 3})
    tracker.close()
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert (row["a"], row["b"], row["c"], row["d"]) == (0.1 + 0.2, None, None, 3.0)


def test_a_step_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    """Nothing is lost by a kill after `log` returned."""
    program = (
        "import os, signal, sys; from pathlib import Path; from medrl.tracking.jsonl import JsonlTracker\n"
        "tracker = JsonlTracker(Path(sys.argv[1]))\n"
        "tracker.log(1, {'a': 1.0}); tracker.log_samples(1, [{'answer': 'x'}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path]).returncode == -9
    assert rows(tmp_path / "metrics.jsonl")[0]["a"] == 1.0
    assert rows(tmp_path / "samples.jsonl") == [{"step": 1, "answer": "x"}]


def test_resuming_leaves_no_step_twice(tmp_path: Path) -> None:
    run(tmp_path, [1, 2, 3, 4], value=1.0)
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()[:2]
    run(tmp_path, [3, 4, 5], resume_step=2, value=2.0)
    metrics = rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["a/b"]) for row in metrics] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert [row["step"] for row in rows(tmp_path / "samples.jsonl")] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[:2] == before  # byte for byte


def test_a_fresh_run_starts_with_empty_files(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    run(tmp_path, [1])
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1]


def test_resuming_without_earlier_files(tmp_path: Path) -> None:
    run(tmp_path, [3], resume_step=2)
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [3]


@pytest.mark.parametrize("torn", ['{"step": 2, "a', '{"step": 2}', "\udce5"])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + torn, encoding="utf-8", errors="surrogateescape")
    drop_later_steps(path, 5)
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("bad", ["not json", "[]", '{"a": 1}', '{"step": "x"}', ""])
def test_any_other_bad_line_is_an_error_and_changes_nothing(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + bad + '\n{"step": 2}\n')
    text = path.read_text()
    with pytest.raises(DataError, match=r"metrics\.jsonl:2 is not a row of this run"):
        drop_later_steps(path, 5)
    assert path.read_text() == text


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "metrics.jsonl")
    tracker = JsonlTracker(tmp_path)
    with pytest.raises(MedrlError, match="cannot write to .*metrics.jsonl") as caught:
        tracker.log(1, {"a": 1.0})
    assert "--resume" in caught.value.remedy


def test_samples_must_be_plain_values(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        tracker.log_samples(1, [{"score": float("nan")}])
    assert (tmp_path / "samples.jsonl").read_text() == ""
    tracker.close()
