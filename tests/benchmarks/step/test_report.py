"""What the report makes of figures that are known."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from medrl.algo.roofline import Rates
from medrl.config.base import load_config
from medrl.config.ppo import PpoConfig
from tests.benchmarks.step.cases import BASE_THRICE, CASES, FULL, LORA, SHARED_CRITIC, Case
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.own import OwnRun, own_config
from tests.benchmarks.step.report import sections, write_report
from tests.benchmarks.step.sections import memory, scaling
from tests.benchmarks.step.sweeps import AHEAD, IN_TURNS, SWEEPS, VARIED

MIB = 2**20
EVERY = CASES | VARIED


def figures(case: Case, step: float = 1.0, held: tuple[int, int, int] = (11, 11, 0)) -> Figures:
    """Half of each step is update; the workers are at work for nine tenths of it."""
    parts = {"generate": 0.2, "score": 0.1, "update": 0.5, "sync": 0.1, "busy": 0.9, "step": 1.0}
    own = OwnRun(
        {name: [share * step * wobble for wobble in (0.9, 1.0, 1.2)] for name, share in parts.items()}, [64.0] * 3,
        {"seconds": [0.004, 0.005, 0.007], "bytes": [3072.0] * 3}, {"policy": 700 * MIB, "rollout": 900 * MIB},
        {role: size * MIB for role, size in zip(("policy", "critic", "reference"), held, strict=True)})
    peer = {"step": [2 * step] * 3, "generate": [step] * 3} if case.peer else {}
    return Figures(case, own, peer, {"generate": 0.1 * step, "score": 0.1 * step, "update": 0.2 * step}, 10 * MIB)


@pytest.mark.parametrize("name", EVERY)
def test_every_case_is_a_valid_config_and_survives_the_way_to_trl(name: str, tmp_path: Path) -> None:
    case = EVERY[name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(own_config(case, tmp_path, 3, tmp_path)))
    config = load_config(PpoConfig, tmp_path / "config.yaml", case.own)
    assert config.answers_per_step == case.prompts
    case.dump(tmp_path / "case.json")
    back = Case.load(tmp_path / "case.json")
    assert replace(back, own=tuple(back.own)) == case


def test_a_case_that_is_compared_differs_from_trls_in_own_settings_only() -> None:
    for case in EVERY.values():
        if case.peer:
            assert replace(case, name=case.peer, own=()) == replace(EVERY[case.peer], own=())


def test_sweeps_vary_one_thing() -> None:
    for sweep in SWEEPS:
        first = next(iter(sweep.cases.values()))
        for size, case in sweep.cases.items():
            changed = {key for key in vars(case) if getattr(case, key) != getattr(first, key)} - {"name", "peer"}
            assert len(changed) <= 1 and (size in (case.prompts, case.answer_tokens, case.width) or changed <= {"own"})


def test_other_is_the_share_of_a_step_without_work() -> None:
    found = figures(FULL, 4.0)
    assert found.other == pytest.approx(0.1) and found.ratio == pytest.approx(2.0)
    assert figures(BASE_THRICE).ratio is None


def test_bases_are_counted_in_whole_copies() -> None:
    assert memory.bases(figures(BASE_THRICE, held=(11, 11, 10))) == 3
    assert memory.bases(figures(LORA, held=(11, 11, 0))) == 2
    assert memory.bases(figures(SHARED_CRITIC, held=(11, 1, 0))) == 1


def test_exponents_are_those_of_the_sizes() -> None:
    prompts = SWEEPS[0]
    found = [figures(case, size**1.5) for size, case in prompts.cases.items()]
    exponents = scaling.exponents(found)
    assert exponents.keys() == {prompts.name}
    for phase in exponents[prompts.name].values():
        assert phase["low"] <= phase["exponent"] <= phase["high"]
        assert phase["exponent"] == pytest.approx(1.5)


def test_a_section_needs_its_cases() -> None:
    def titles(*cases: Case) -> set[str]:
        return {part.title for part in sections([figures(case) for case in cases])}

    always = {"Seconds of a step", "Overhead: Ray and Python"}
    assert titles(FULL) == always | {"Memory", "Weight sync"}
    assert titles(IN_TURNS) == always
    assert titles(IN_TURNS, AHEAD) == always | {"Sampling ahead"}
    assert titles(*SWEEPS[-1].cases.values()) == always | {"Scaling"}


def test_the_report_is_one_json_file_one_page_and_the_plots_it_shows(tmp_path: Path) -> None:
    found = [figures(case, 1 + i) for i, case in enumerate(EVERY.values())]
    write_report(found, {"float32": Rates(1e9, 1e9)}, tmp_path)
    plain = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    assert [row["case"]["name"] for row in plain["cases"]] == list(EVERY)
    page = (tmp_path / "step.md").read_text(encoding="utf-8")
    assert page.count("\n## ") + page.startswith("## ") == 6
    for part in sections(found):
        assert part.rows and all(len(row) == len(part.columns) for row in part.rows)
    plots = {file.name for file in tmp_path.glob("*.svg")}
    assert len(plots) == 2 + len(SWEEPS) and all(f"]({name})" in page for name in plots)
    for name in plots:
        assert ET.parse(tmp_path / name).getroot().tag.endswith("svg")
    bars = (tmp_path / "seconds.svg").read_text(encoding="utf-8").count('class="bar"')
    compared = len({case.peer for case in CASES.values() if case.peer})
    assert bars == 5 * len(CASES) + 2 * compared  # four phases and what lies between; two parts of TRL's
    assert (tmp_path / "scaling-model-width.svg").read_text(encoding="utf-8").count("<circle") == 3 * 5


def test_the_last_step_says_nothing_of_sampling_ahead() -> None:
    turns, ahead = figures(IN_TURNS, 2.0), figures(AHEAD, 1.0)
    ahead.own.seconds["step"][-1] = 100.0
    rows = next(part.rows for part in sections([turns, ahead]) if part.title == "Sampling ahead")
    assert [row[1] for row in rows] == ["1.90", "0.95"] and [row[2] for row in rows] == ["1.00", "2.00"]
