"""That the benchmark runs: a tiny case of medrl's side, whose bound no phase beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.step.bounds import bounds, measured_rates
from tests.benchmarks.step.cases import FULL
from tests.benchmarks.step.own import run_own
from tests.benchmarks.step.report import Figures, make_markdown
from tests.benchmarks.step.world import make_world


@pytest.mark.ray
@pytest.mark.vllm
def test_a_tiny_case_is_measured_phase_by_phase(tmp_path: Path) -> None:
    case = replace(FULL, name="tiny", prompts=8, prompt_tokens=8, answer_tokens=8, ends=True, lora_rank=4, epochs=1,
                   mini_batches=2, width=64)
    world = make_world(case, tmp_path)
    times = run_own(case, world, 3, tmp_path / "medrl", ("rollout.engine=hf",))
    assert all(len(seconds) == 2 for seconds in times.values())
    assert all(8 <= tokens <= 64 for tokens in times["tokens"])
    least = bounds(case, world, times["tokens"][0], measured_rates("float32", 1))
    figures = Figures(case, times, {"step": [1.0]}, least)
    assert figures.plain()["ratio"] > 0 and figures.plain()["least"].keys() == {"generate", "score", "update"}
    assert all(0 < least[phase] < min(times[phase]) for phase in least)
    assert make_markdown([figures]).count("\n") == 3
