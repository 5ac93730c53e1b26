"""Files, overrides, and what is said about a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medrl.config.base import load_config, parse_yaml
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import SftConfig
from medrl.errors import ConfigError


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(PpoConfig, path, overrides)
    return str(caught.value)


def test_a_minimal_file_gets_the_defaults(ppo_file: Path) -> None:
    config = load_config(PpoConfig, ppo_file)
    assert (config.name, config.run_dir, config.algorithm.lam) == ("run", "runs/run", 0.95)
    assert config.lora and config.lora.rank == 8


def test_overrides_apply_in_order_and_make_missing_sections(ppo_file: Path) -> None:
    config = load_config(PpoConfig, ppo_file, [
        "steps=3", "steps=4", "algorithm.kl.coef=0.1", "learner.optimizer.lr=1e-5", "rollout.enforce_eager=true",
        "tracking=[jsonl]", "data.eval_prompts=held out.jsonl", "sampling={max_tokens: 7}", "lora.layers='0-3'"])
    assert config.steps == 4
    assert config.algorithm.kl.coef == 0.1
    assert config.learner.optimizer.lr == 1e-5
    assert config.rollout.enforce_eager is True
    assert config.tracking == ["jsonl"]
    assert config.data.eval_prompts == "held out.jsonl"
    assert config.sampling.max_tokens == 7
    assert config.lora and config.lora.layers == "0-3"


def test_an_override_can_turn_an_optional_section_off(ppo_file: Path) -> None:
    assert load_config(PpoConfig, ppo_file, ["lora=null", "reference.mode=dedicated"]).lora is None


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_every_number_python_prints_is_read_as_that_number(number: float) -> None:
    assert parse_yaml(repr(number)) == number


@pytest.mark.parametrize(("text", "value"), [
    ("1e-5", 1e-5), ("3E4", 3e4), ("-.5", -0.5), ("1_000.5", 1000.5), ("12", 12),
    ("0.1.2", "0.1.2"), ("e5", "e5"), ("1e", "1e"),
])
def test_numbers_and_what_only_looks_like_one(text: str, value: object) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_a_loaded_config_never_changes(ppo_file: Path) -> None:
    config = load_config(PpoConfig, ppo_file)
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_unknown_keys_get_the_nearest_one(ppo_file: Path) -> None:
    message = refused(ppo_file, "algoritm.gamma=1", "learner.optimizer.learning_rat=1", "algorithm.kl.coeff=0.1")
    assert "3 problems" in message
    assert "algoritm: unknown key; did you mean 'algorithm'?" in message
    assert "algorithm.kl.coeff: unknown key; did you mean 'coef'?" in message
    assert "learner.optimizer.learning_rat: unknown key; known keys here: betas, eps, lr" in message


def test_unknown_key_inside_a_list_and_an_optional_section(ppo_file: Path) -> None:
    message = refused(ppo_file, "reward.sources=[{name: a, model: b, wieght: 2.0}]", "lora.rnk=4")
    assert "reward.sources.0.wieght: unknown key; did you mean 'weight'?" in message
    assert "lora.rnk: unknown key; did you mean 'rank'?" in message


@pytest.mark.parametrize(("override", "said"), [
    ("steps='12'", "steps: input should be a valid integer, got '12'"),
    ("steps=1.5", "steps: input should be a valid integer, got 1.5"),
    ("steps=0", "steps: input should be greater than or equal to 1, got 0"),
    ("data.shuffle=1", "data.shuffle: input should be a valid boolean, got 1"),
    ("model.path=7", "model.path: input should be a valid string, got 7"),
    ("algorithm.gamma=1.5", "algorithm.gamma: input should be less than or equal to 1, got 1.5"),
    ("algorithm.kl.estimator=k4", "algorithm.kl.estimator: input should be 'k1', 'k2' or 'k3', got 'k4'"),
    ("algorithm=3", "algorithm: input should be a valid dictionary"),
])
def test_wrong_values_are_named_with_limit_and_value(ppo_file: Path, override: str, said: str) -> None:
    assert said in refused(ppo_file, override)


def test_an_integer_is_a_fine_number(ppo_file: Path) -> None:
    assert load_config(PpoConfig, ppo_file, ["algorithm.kl.target=3"]).algorithm.kl.target == 3.0


def test_missing_required_keys(write) -> None:
    message = refused(write({"name": "run"}))
    assert all(f"{key}: required, but not set" in message for key in ("model", "data", "reward"))


@pytest.mark.parametrize(("override", "said"), [
    ("steps", "an override must look like a.b=value"),
    ("=3", "an override must look like a.b=value"),
    ("name.x=3", "override name.x: name is a value, not a section"),
    ("tracking=[jsonl", "override tracking: the value is not valid YAML"),
])
def test_malformed_overrides(ppo_file: Path, override: str, said: str) -> None:
    assert said in refused(ppo_file, override)


def test_files_that_are_no_config(tmp_path: Path) -> None:
    assert "no config file at" in refused(tmp_path / "missing.yaml")
    path = tmp_path / "config.yaml"
    path.write_text("a: [1", encoding="utf-8")
    assert "is not valid YAML" in refused(path)
    path.write_text("- 1\n- 2\n", encoding="utf-8")
    assert "must hold a mapping" in refused(path)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n", encoding="utf-8")
    assert "is not valid YAML" in refused(path)
    assert not (tmp_path / "made").exists()


def test_a_config_of_another_stage_is_refused(sft_file: Path) -> None:
    message = refused(sft_file)
    assert "data.train: unknown key" in message
    assert load_config(SftConfig, sft_file).training.batch_size == 16
