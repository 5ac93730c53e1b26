"""Which versions can take another's place in a running engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.errors import ModelError, RegistryError
from medrl.registry.lineage import describe
from medrl.registry.record import Version
from serve.swap.compatible import check_loadable
from serve.swap.messages import Target
from tests.versions import save_version


def version(path: Path, number: int) -> Target:
    return Target.of(Version(number, path, (), describe(path)))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return version(save_version(tmp_path_factory.mktemp("old"), 0), 1)


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_other_weights_of_the_same_kind(old: Target, tmp_path: Path) -> None:
    new = save_version(tmp_path, 1)
    edit(new / "config.json", transformers_version="0.0")  # says nothing about the model
    (new / "README.md").write_text("another text")
    check_loadable(version(new, 2), old)


@pytest.mark.parametrize(
    ("name", "values"),
    [("config.json", {"rope_theta": 7.0}), ("generation_config.json", {"temperature": 0.1}),
     ("tokenizer_config.json", {"eos_token": "<pad>"})],
)
def test_a_setting_that_the_engine_would_not_notice(old: Target, tmp_path: Path, name: str, values: dict) -> None:
    new = save_version(tmp_path, 1)
    edit(new / name, **values)
    with pytest.raises(ModelError, match=f"got: {name}"):
        check_loadable(version(new, 2), old)


def test_another_architecture_template_or_set_of_tensors(old: Target, tmp_path: Path) -> None:
    wider = save_version(tmp_path / "wider", 1, hidden_size=128)
    with pytest.raises(ModelError, match="config.json"):
        check_loadable(version(wider, 2), old)
    template = save_version(tmp_path / "template", 1)
    (template / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelError, match="chat_template.jinja"):
        check_loadable(version(template, 2), old)
    untied = save_version(tmp_path / "untied", 1, tie_word_embeddings=False)
    edit(untied / "config.json", tie_word_embeddings=True)
    with pytest.raises(ModelError, match="names and shapes"):
        check_loadable(version(untied, 2), old)


def test_files_that_were_changed_after_they_were_registered(old: Target, tmp_path: Path) -> None:
    new = version(save_version(tmp_path, 1), 2)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(RegistryError, match="not those that were registered"):
        check_loadable(new, old)
