"""What a pipeline is made of, known before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medrl.config.base import build_config, load_config
from medrl.config.pipeline import PipelineConfig
from medrl.config.ppo import PpoConfig
from medrl.errors import ConfigError
from medrl.pipeline.fingerprint import fingerprints
from medrl.pipeline.plan import Step, plan

DEMO = Path(__file__).parents[3] / "configs/demo"
SFT = {"stage": "sft", "set": {"model.path": "base", "data.train": "sft.jsonl", "lora": {}}}
REWARD = {"stage": "reward", "set": {"model.path": "${sft.model}", "data": {"train": "p.jsonl", "eval": "q.jsonl"}}}
PPO = {"stage": "ppo", "set": {
    "model.path": "${sft.model}", "lora": {}, "data.prompts": "prompts.jsonl",
    "reward.sources": [{"name": "rm", "model": "${reward.model}"}]}}
MERGE = {"stage": "merge", "set": {"adapter": "${ppo.adapter}", "base": "${sft.model}"}}
PAGE = {"stage": "report", "set": {"runs": ["${sft.run}", "${reward.run}"]}}
CHAIN = {"sft": SFT, "reward": REWARD, "ppo": PPO, "merged": MERGE}


def steps(links: dict, folder: Path = Path(), **values) -> list[Step]:
    return plan(build_config(PipelineConfig, {"output_dir": "out", "links": links} | values), folder)


def test_each_link_takes_what_earlier_ones_leave() -> None:
    sft, reward, ppo, merged = steps(CHAIN, seed=3)
    assert [step.name for step in (sft, reward, ppo, merged)] == list(CHAIN)
    assert reward.config.model.path == ppo.config.model.path == merged.config.base == "out/sft/merged"
    assert ppo.config.reward.sources[0].model == reward.outputs["model"].path == "out/reward/model"  # no lora there
    assert merged.config.adapter == "out/ppo/adapter" and merged.outputs["model"].path == "out/merged"
    assert all(step.config.seed == 3 for step in (sft, reward, ppo, merged))


def test_the_demos_pipeline_goes_from_nothing_to_a_measured_policy() -> None:
    config = load_config(PipelineConfig, DEMO / "pipeline.yaml", ["output_dir=elsewhere"])
    planned = plan(config, DEMO)
    *stages, evaluated, report = planned
    assert stages[-1].outputs["model"].path == evaluated.config.model.path == "elsewhere/merged"
    assert evaluated.outputs["results"].path == "elsewhere/evaluate/evaluation.json"
    assert report.config.runs == [f"elsewhere/{step.name}" for step in (*stages, evaluated)]  # the page is about all
    for step in planned:  # nothing points back to the folder that the stages' own files name
        assert "runs/demo" not in str(step.config.model_dump())


def test_a_links_file_is_the_start_and_set_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "ppo.yaml").write_text(yaml.safe_dump(
        {"name": "other", "steps": 7, "model": {"path": "x", "dtype": "bfloat16"}, "lora": {}, "critic": {"lora": {}},
         "data": {"prompts": "p"}, "reward": {"sources": [{"name": "m", "model": "y"}]}}))
    (ppo,) = steps({"ppo": {"stage": "ppo", "config": "ppo.yaml", "set": {"model.path": "z"}}}, tmp_path)
    assert isinstance(ppo.config, PpoConfig)
    assert (ppo.config.name, ppo.config.steps, ppo.config.model.path) == ("ppo", 7, "z")
    assert ppo.config.model.dtype == "bfloat16"


@pytest.mark.parametrize(("name", "key", "value", "said"), [
    ("reward", "model.path", "${sfd.model}", "did you mean 'sft'"),
    ("sft", "model.path", "${ppo.model}", "no link 'ppo' comes before it"),
    ("reward", "model.path", "${sft.folder}", "sft leaves no folder"),
    ("ppo", "model.path", "${reward.model}", "is a reward model"),
    ("ppo", "reward.sources", [{"name": "rm", "model": "${sft.model}"}], "is a language model"),
    ("merged", "adapter", "${sft.model}", "is a language model"),
    ("merged", "base", "${ppo.adapter}", "is an adapter"),
    ("page", "runs", ["${ppo.adapter}"], "is an adapter"),
    ("ppo", "stepz", 3, "unknown key"),
    ("sft", "lora.rank.x", 3, "rank is a value, not a section"),
])
def test_refused_before_anything_runs(name: str, key: str, value, said: str) -> None:
    broken = {link: dict(values) for link, values in (CHAIN | {"page": PAGE}).items()}
    broken[name]["set"] = {**broken[name]["set"], "lora": {"rank": 4}, key: value}
    if name in ("merged", "page"):
        del broken[name]["set"]["lora"]
    with pytest.raises(ConfigError) as caught:
        steps(broken)
    assert said in str(caught.value)


def test_a_missing_file_and_a_strange_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file at .*none\.yaml"):
        steps({"sft": {"stage": "sft", "config": "none.yaml"}}, tmp_path)
    with pytest.raises(ConfigError, match="letters, digits"):
        steps({"a/b": SFT})


def changed(before: list[Step], after: list[Step]) -> list[str]:
    old, new = fingerprints(before), fingerprints(after)
    return [name for name in new if new[name] != old[name]]


def altered(link: str, **settings) -> dict:
    return CHAIN | {link: CHAIN[link] | {"set": CHAIN[link]["set"] | settings}}


def test_a_change_reaches_what_follows_and_nothing_else() -> None:
    before = steps(CHAIN)
    assert changed(before, steps(CHAIN)) == []
    assert changed(before, steps(altered("ppo", steps=5))) == ["ppo", "merged"]
    assert changed(before, steps(altered("reward", **{"training.lr": 0.1}))) == ["reward", "ppo", "merged"]
    assert changed(before, steps(CHAIN, seed=1)) == list(CHAIN)


@pytest.mark.parametrize(("link", "key", "reached"), [
    ("sft", "training.lr", True), ("reward", "training.lr", True), ("ppo", "learner.optimizer.lr", False)])
def test_a_page_is_made_again_when_a_run_it_is_about_is(link: str, key: str, reached: bool) -> None:
    page = {"page": PAGE}
    assert ("page" in changed(steps(CHAIN | page), steps(altered(link, **{key: 0.1}) | page))) == reached


def test_where_and_how_it_runs_is_no_change() -> None:
    before = steps(CHAIN)
    assert changed(before, steps(CHAIN, output_dir="other")) == []
    assert changed(before, steps(altered("ppo", tracking=["jsonl"], **{"timeouts.start": 5.0}))) == []


def test_files_count_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "sft.jsonl"
    file.write_text("one")
    links = altered("sft", **{"data.train": str(file)})
    first = fingerprints(steps(links))
    moved = tmp_path / "moved.jsonl"
    moved.write_text("one")
    assert fingerprints(steps(altered("sft", **{"data.train": str(moved)}))) == first
    file.write_text("two!")
    assert set(fingerprints(steps(links)).items()).isdisjoint(first.items())
