"""The generated reference of all keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from medrl.config.audit import AuditSection
from medrl.config.docs import config_reference
from medrl.config.evaluate import EvaluateConfig
from medrl.config.feedback import FeedbackSection
from medrl.config.ppo import PpoConfig
from medrl.config.registry import RegistryConfig
from medrl.config.serving import ServeConfig, ServeRewardConfig
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig

DOCS = Path(__file__).parents[3] / "docs/config.md"


def schema_keys(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The key of every setting: pydantic's own account of the classes, not ours."""
    for name, entry in schema["properties"].items():
        yield prefix + name
        for reference in re.findall(r"#/\$defs/(\w+)", str(entry)):
            marker = "[]." if entry.get("type") == "array" else ".<name>." if "additionalProperties" in entry else "."
            yield from schema_keys(definitions[reference], definitions, f"{prefix}{name}{marker}")


def test_the_file_in_docs_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == config_reference(), "run `make docs`"


CONFIGS = [
    PretrainConfig, SftConfig, RewardConfig, DpoConfig, PpoConfig, EvaluateConfig, ServeRewardConfig, RegistryConfig,
    AuditSection, FeedbackSection, ServeConfig,
]


@pytest.mark.parametrize("model", CONFIGS)
def test_every_key_is_listed_and_described(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    rows = dict(re.findall(r"^\| `([^`]+)` \| .* \| (.*) \|$", config_reference(), re.MULTILINE))
    for key in schema_keys(schema, schema["$defs"]):
        assert rows.get(key), f"{key} has no row or no description"


def test_every_row_has_four_cells() -> None:
    for line in config_reference().splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


def test_defaults_are_written_as_yaml() -> None:
    reference = config_reference()
    assert "| `learner.optimizer.lr` | number > 0 | `0.0001` |" in reference
    assert "| `rollout.enforce_eager` | true \\| false \\| null | `null` |" in reference
    assert "`mlflow` | `[console, jsonl, tensorboard]` | where metrics go;" in reference
    assert "| `reward.sources[].name` | text | **required** |" in reference
