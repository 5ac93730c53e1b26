"""A pipeline of links that need no cluster: the demo's world, and a page about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medrl.config.base import build_config
from medrl.config.pipeline import PipelineConfig
from medrl.errors import ConfigError
from medrl.pipeline.run import run_pipeline

pytestmark = pytest.mark.heavy


def run(out: Path, links: dict | None = None, **values) -> dict:
    values = {"output_dir": str(out), "links": links or {"world": {"stage": "world"}}} | values
    return run_pipeline(build_config(PipelineConfig, values), out)


def interrupt(*args) -> None:
    raise KeyboardInterrupt


def made(out: Path) -> int:
    return (out / "world/world.json").stat().st_mtime_ns


def test_what_is_done_is_not_redone_until_something_changes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = run(tmp_path)
    assert first["world"]["finished"] and json.loads((tmp_path / "pipeline.json").read_text()) == first
    time = made(tmp_path)
    assert run(tmp_path) == first and made(tmp_path) == time and "unchanged" in capsys.readouterr().out
    assert run(tmp_path, seed=1)["world"]["fingerprint"] != first["world"]["fingerprint"] and made(tmp_path) > time
    shutil.rmtree(tmp_path / "world/base")
    run(tmp_path, seed=1)
    assert (tmp_path / "world/base/config.json").is_file()


def test_a_page_is_made_once_and_again_when_what_it_shows_is(tmp_path: Path) -> None:
    links = {"world": {"stage": "world"}, "page": {"stage": "report", "set": {"runs": ["${world.run}"]}}}
    run(tmp_path, links)
    page = tmp_path / "page/report.html"
    assert "pretrain tokens" in page.read_text()
    time = page.stat().st_mtime_ns
    run(tmp_path, links)
    assert page.stat().st_mtime_ns == time
    run(tmp_path, links, seed=1)
    assert page.stat().st_mtime_ns > time


def test_a_page_is_made_again_when_a_link_is_done_again_only_for_what_was_gone(tmp_path: Path, monkeypatch) -> None:
    links = {"world": {"stage": "world"}, "page": {"stage": "report", "set": {"runs": ["${world.run}"]}}}
    run(tmp_path, links)
    page = tmp_path / "page/report.html"
    for broken_off in (False, True):
        time = page.stat().st_mtime_ns
        shutil.rmtree(tmp_path / "world/base")
        if broken_off:  # after the world, before the page
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("medrl.pipeline.kinds.write_report", interrupt)
                run(tmp_path, links)
            state = json.loads((tmp_path / "pipeline.json").read_text())
            assert state["world"]["finished"] and not state["page"]["finished"]
        run(tmp_path, links)
        assert page.stat().st_mtime_ns > time
    state = json.loads((tmp_path / "pipeline.json").read_text())
    state["page"]["at"] = state["world"]["at"] - 1  # the world was done without the page
    (tmp_path / "pipeline.json").write_text(json.dumps(state))
    time = page.stat().st_mtime_ns
    run(tmp_path, links)
    assert page.stat().st_mtime_ns > time


def test_a_link_that_broke_off_is_done_again(tmp_path: Path) -> None:
    state = run(tmp_path)
    state["world"]["finished"] = False
    (tmp_path / "pipeline.json").write_text(json.dumps(state))
    time = made(tmp_path)
    assert run(tmp_path)["world"]["finished"] and made(tmp_path) > time


def test_a_wrong_config_at_the_end_stops_the_first_link(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run(tmp_path, {"world": {"stage": "world"}, "sft": {"stage": "sft", "set": {"model.path": "${world.nothing}"}}})
    assert not (tmp_path / "world").exists()
