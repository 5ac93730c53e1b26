"""That the benchmark runs: a tiny case of medrl's side, whose bound no phase beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medrl.algo.roofline import Rates
from tests.benchmarks.step.bounds import base_bytes, bounds, measured_rates
from tests.benchmarks.step.cases import SHARED_CRITIC
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.own import PHASES, run_own
from tests.benchmarks.step.report import write_report
from tests.benchmarks.step.sections import memory
from tests.benchmarks.step.world import make_world


@pytest.mark.ray
@pytest.mark.vllm
def test_a_tiny_case_is_measured_phase_by_phase(tmp_path: Path) -> None:
    case = replace(SHARED_CRITIC, prompts=8, prompt_tokens=8, answer_tokens=8, ends=True, lora_rank=4, epochs=1,
                   mini_batches=2, width=64)
    world = make_world(case, tmp_path)
    own = run_own(case, world, 3, tmp_path / "medrl", ("rollout.engine=hf",))
    assert all(len(values) == 2 for values in (*own.seconds.values(), *own.sync.values(), own.tokens))
    assert all(8 <= tokens <= 64 for tokens in own.tokens)
    assert all(0 < busy <= step for busy, step in zip(own.seconds["busy"], own.seconds["step"], strict=True))
    assert own.peak_bytes.keys() == {"policy", "reward", "rollout"}  # the critic and the reference are in the policy
    assert own.parameter_bytes["reference"] == 0 < own.parameter_bytes["critic"] < own.parameter_bytes["policy"]
    least = bounds(case, world, own.tokens[0], measured_rates("float32", 1))
    assert least.keys() < set(PHASES) and all(0 < least[phase] < min(own.seconds[phase]) for phase in least)
    figures = Figures(case, own, {}, least, base_bytes(case, world))
    assert memory.bases(figures) == 1 and 0 <= figures.other < 1
    write_report([figures], {"float32": Rates(1.0, 1.0)}, tmp_path)
    assert case.name in (tmp_path / "step.md").read_text(encoding="utf-8")
