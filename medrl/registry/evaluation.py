"""What the registry keeps of an evaluation.json: the figures, and none of the texts."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medrl.errors import DataError

EVALUATION_FILE = "evaluation.json"


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Result(_Figures):
    """One metric of one set, with the ends of its 95 % interval where it has one."""

    set: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int

    @property
    def name(self) -> str:
        return f"{self.set}/{self.metric}"


class Rule(_Figures):
    """How many cases of a set keep to one safety rule."""

    set: str
    rule: str
    passed: int = Field(ge=0)
    total: int = Field(ge=0)

    @property
    def name(self) -> str:
        return f"{self.set}/{self.rule}"

    @property
    def share(self) -> float:
        return self.passed / self.total if self.total else float("nan")


class Evaluation(_Figures):
    """The figures of one evaluated model."""

    model: str
    model_sha256: str  # of config and weights: `medrl.lora.identity.model_hash`
    baseline: str | None = None
    baseline_sha256: str | None = None
    seed: int
    results: tuple[Result, ...]
    rules: tuple[Rule, ...] = ()


def read_evaluation(file: Path) -> Evaluation:
    """The figures in `file`. Raises DataError, which quotes nothing of it."""
    try:
        return Evaluation.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"{file} cannot be read", got=error.strerror or "") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise DataError(f"{file} is no evaluation", limit="what `medrl evaluate` writes", got=wrong) from None
    except ValueError:
        raise DataError(f"{file} is not valid JSON", remedy="evaluate again") from None
