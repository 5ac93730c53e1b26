"""The medical facts that the demo's world is made of."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import yaml

LANGUAGES = ("zh", "en")


@dataclass(frozen=True)
class Facts:
    """What is said about one condition in one language. `what` is a sentence, the others are phrases."""

    name: str
    what: str
    symptoms: tuple[str, ...]
    care: tuple[str, ...]
    red_flags: tuple[str, ...]
    department: str


@dataclass(frozen=True)
class Condition:
    """One condition; `facts["zh"]` and `facts["en"]` say the same."""

    id: str
    facts: dict[str, Facts]


def load_conditions() -> list[Condition]:
    """All conditions of facts.yaml, in its order."""
    rows = yaml.safe_load(files("medrl.demo").joinpath("facts.yaml").read_text(encoding="utf-8"))
    return [Condition(row["id"], {language: _facts(row[language]) for language in LANGUAGES}) for row in rows]


def _facts(row: dict) -> Facts:
    lists = {key: tuple(row[key]) for key in ("symptoms", "care", "red_flags")}
    return Facts(name=row["name"], what=row["what"], department=row["department"], **lists)
