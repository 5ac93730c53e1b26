"""Guides name keys and commands that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medrl import cli
from medrl.config.docs import CHAPTERS
from tests.unit.config.test_reference import schema_keys

DOCS = Path(__file__).parents[2] / "docs"


def counterparts() -> Iterator[str]:
    """What stands in code type in the column `medrl` of docs/from-medicalgpt.md."""
    ours = False
    for line in (DOCS / "from-medicalgpt.md").read_text(encoding="utf-8").splitlines():
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        if not cells:
            ours = False
        elif cells[-1].strip() == "medrl":
            ours = True
        elif ours:
            yield from re.findall(r"`([^`]+)`", cells[-1])


def all_keys() -> set[str]:
    schemas = [model.model_json_schema() for _, model, _ in CHAPTERS]
    return {key for schema in schemas for key in schema_keys(schema, schema.get("$defs", {}))}


def test_every_key_in_the_guide_for_users_of_medicalgpt_exists() -> None:
    named = [code.partition(":")[0] for code in counterparts() if not code.startswith(("medrl ", "<"))]
    values = {"float32", "bfloat16", "vllm", "prompts"}
    assert len(named) > 50 and set(named) - values <= all_keys()


def test_every_command_in_it_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {code for code in counterparts() if code.startswith("medrl ")}
    assert len(commands) >= 10
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            cli.parse([*command.split()[1:], "--help"])
        assert ended.value.code == 0, command


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
