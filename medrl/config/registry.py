"""Config of the model registry, and of the gate before its champion."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medrl.config.base import StrictModel


class RuleLimit(StrictModel):
    """What the share of passed cases must keep to."""

    min: float | None = Field(default=None, description="smallest value")
    max_drop: float | None = Field(default=None, ge=0, description="at most this much below the champion's value")

    @model_validator(mode="after")
    def _says_something(self):
        if all(value is None for value in vars(self).values()):
            raise ValueError(f"no limit is set: one of {', '.join(type(self).model_fields)}")
        return self


class MetricLimit(RuleLimit):
    """What a metric must keep to."""

    max: float | None = Field(default=None, description="largest value")
    max_rise: float | None = Field(default=None, ge=0, description="at most this much above the champion's value")
    min_low: float | None = Field(default=None, description="smallest lower end of the 95 % interval")


class GateConfig(StrictModel):
    """What a version's evaluation must show before it becomes the champion; a version without one never passes."""

    merge_check: bool = Field(
        default=True, description="a merge must have proved its base and its log-probs (merge.json beside the model)"
    )
    metrics: dict[str, MetricLimit] = Field(
        default={}, description='by "set/metric" of evaluation.json, * for any text; one that matches nothing fails'
    )
    rules: dict[str, RuleLimit] = Field(default={}, description='safety rules, by "set/rule", read in the same way')


class RegistryConfig(StrictModel):
    """The versions of one model, and which of them is the champion."""

    root: str = Field(default="registry", description="folder of the models' files and locks, and of the database")
    uri: str | None = Field(
        default=None,
        description="MLflow tracking URI that keeps the versions (server or database); null: SQLite in root. Passwords "
        "come from the environment (MLFLOW_TRACKING_PASSWORD, PGPASSWORD)",
    )
    model: str = Field(default="medrl", description="name of the registered model")
    lock_timeout: float = Field(default=600.0, gt=0, description="seconds to wait for another command on this registry")
    gate: GateConfig = GateConfig()

    @field_validator("model")
    @classmethod
    def _name(cls, model: str) -> str:
        if not re.fullmatch(r"[\w.-]+", model):
            raise ValueError("a model's name is made of letters, digits, _, . and -")
        return model

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri and urlsplit(uri).password:
            raise ValueError("a password does not belong into a config: set MLFLOW_TRACKING_PASSWORD or PGPASSWORD")
        return uri
