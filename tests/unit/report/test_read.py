"""What is read from a run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.errors import DataError
from medrl.report.read import read_folder, read_run
from tests.unit.report.conftest import evaluation_run, ppo_run, supervised_run


def test_a_pipeline_is_its_links_in_order(pipeline: Path) -> None:
    runs = read_folder(pipeline)
    assert [(run.name, run.kind, run.seconds) for run in runs] == [
        ("sft", "supervised", 30.0), ("ppo", "ppo", 90.0), ("exam", "evaluation", 60.0)]


def test_a_run_alone(tmp_path: Path) -> None:
    (run,) = read_folder(ppo_run(tmp_path / "mine", steps=3))
    assert run.name == "mine" and len(run.steps) == 3 and run.seconds == 61.0 and run.versions["medrl"] == "0.1.0"
    assert run.steps[0]["policy/loss"] is None and len(run.samples) == 4
    assert read_run(supervised_run(tmp_path / "sft")).kind == "supervised"
    assert read_run(evaluation_run(tmp_path / "exam")).seconds is None  # a mapping of phases there


def test_a_link_that_has_left_nothing_yet_is_passed_over(pipeline: Path) -> None:
    links = json.loads((pipeline / "pipeline.json").read_text()) | {"report": {"finished": False}}
    (pipeline / "pipeline.json").write_text(json.dumps(links))
    assert [run.name for run in read_folder(pipeline)] == ["sft", "ppo", "exam"]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path: Path) -> None:
    folder = ppo_run(tmp_path / "ppo", finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rollout/sc')
    assert len(read_run(folder).steps) == 4


def test_a_run_without_jsonl_tracking_is_known_by_its_summary(tmp_path: Path) -> None:
    folder = ppo_run(tmp_path / "ppo")
    for name in ("metrics.jsonl", "samples.jsonl"):
        (folder / name).unlink()
    run = read_run(folder)
    assert run.kind == "ppo" and run.steps == run.samples == [] and run.result["evaluation_before"]


@pytest.mark.parametrize("make", [lambda f: None, lambda f: f.mkdir(), lambda f: (f.mkdir(), (f / "x").touch())])
def test_what_is_no_run_is_refused(tmp_path: Path, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(DataError, match="nothing to report in .*x"):
        read_folder(tmp_path / "x")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path: Path, text: str) -> None:
    folder = ppo_run(tmp_path / "ppo")
    (folder / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"summary\.json"):
        read_run(folder)
