"""Which settings are paths, and where they point."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.docs import CHAPTERS
from medrl.config.paths import DATA, MODELS, OUTPUT, absolute_paths, ends
from medrl.config.stages import CONFIGS
from medrl.jobs.stages import STAGES
from tests.unit.config.test_reference import schema_keys

# Texts that are no paths of the job's inputs or outputs; `links` holds the same keys again.
NO_PATHS = {
    "name", "ray.address", "lora.layers", "critic.lora.layers", "mlflow.uri", "reward.sources.name",
    "reward.sources.function", "reward.sources.url", "reward.sources.http.api_key_env", "sets.name",
    "links.<name>.config",
}


def text_keys() -> set[str]:
    """Keys of free text in the configs of jobs and of a pipeline's links, from pydantic's schemas."""
    models = [model for _, model, _ in CHAPTERS if model in CONFIGS.values() or model.__name__ in ("MergeConfig",)]
    found = set()
    for model in models:
        schema = model.model_json_schema()
        for key in schema_keys(schema, schema.get("$defs", {})):
            if is_text(schema, key):
                found.add(key.replace("[]", ""))
    return found


def is_text(schema: dict, key: str) -> bool:
    node, definitions = schema, schema.get("$defs", {})
    for part in key.replace("[]", "").split("."):
        entry = node["properties"].get(part) if "properties" in node else node
        if entry is None:
            return False
        choices = [entry, *entry.get("anyOf", []), entry.get("items", {}), entry.get("additionalProperties", {})]
        references = [c["$ref"].rsplit("/", 1)[1] for c in choices if isinstance(c, dict) and "$ref" in c]
        node = definitions[references[0]] if references else entry
    kinds = [node, *node.get("anyOf", [])]
    return any(kind.get("type") == "string" and not kind.keys() & {"enum", "const"} for kind in kinds)


def test_every_text_setting_is_a_path_or_known_to_be_none() -> None:
    unknown = {key for key in text_keys() - NO_PATHS if not ends(key, (*MODELS, *DATA, *OUTPUT))}
    assert len(text_keys()) > 20 and not unknown
    assert not {key for key in NO_PATHS if ends(key, (*MODELS, *DATA, *OUTPUT))}


def test_jobs_are_the_stages_that_have_a_config() -> None:
    assert set(STAGES) == set(CONFIGS)


def test_paths_become_absolute_where_they_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy").mkdir()
    Path("prompts.jsonl").touch()
    values = {
        "name": "policy", "output_dir": "runs", "model": {"path": "policy", "tokenizer": "org/name"},
        "data": {"prompts": "prompts.jsonl", "eval_prompts": "/elsewhere/eval.jsonl"},
        "reward": {"sources": [{"name": "policy", "model": "policy"}, {"url": "https://host/score"}]},
        "set": {"model.path": "policy", "data.train": "${world.data}/x.jsonl"}, "steps": 3,
    }
    here = str(tmp_path)
    assert absolute_paths(values) == {
        "name": "policy", "output_dir": f"{here}/runs", "model": {"path": f"{here}/policy", "tokenizer": "org/name"},
        "data": {"prompts": f"{here}/prompts.jsonl", "eval_prompts": "/elsewhere/eval.jsonl"},
        "reward": {"sources": [{"name": "policy", "model": f"{here}/policy"}, {"url": "https://host/score"}]},
        "set": {"model.path": f"{here}/policy", "data.train": "${world.data}/x.jsonl"}, "steps": 3,
    }
    assert absolute_paths({"output_dir": "s3://bucket/runs"}) == {"output_dir": "s3://bucket/runs"}
