"""`medrl serve` beside vLLM's own server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.serving.__main__ import main
from tests.benchmarks.serving.measure import medians


@pytest.mark.slow
@pytest.mark.vllm
def test_medrl_adds_a_tenth_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["serving", "--rounds=10", f"--json={figures}"])
    assert main() == 0, json.loads(figures.read_text())["figures"]


def test_what_is_added_is_between_medians() -> None:
    times = {"vllm": {"token": [0.04, 0.05, 9.0]}, "medrl": {"token": [0.06, 0.01, 0.055]}}
    assert medians(times) == {"token": pytest.approx({"vllm": 0.05, "medrl": 0.055, "added": 0.005, "share": 0.1})}
