"""Config of `medrl pipeline`: stages as a chain."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from medrl.config.base import StrictModel
from medrl.config.common import DType, StageConfig


class MergeConfig(StageConfig):
    """An adapter merged into its base; the run's folder becomes the model's directory."""

    adapter: str = Field(description="adapter directory")
    base: str | None = Field(default=None, description="base model directory; null: the one the adapter names")
    dtype: DType = Field(default="float32", description="dtype of the merged weights")


class WorldConfig(StageConfig):
    """The demo's data files, and a random model with its tokenizer in `base/`."""


class ReportConfig(StageConfig):
    """One HTML page about earlier links."""

    runs: list[str] = Field(
        min_length=1, description="folders of the runs it is about, in this order; in a pipeline ${link.run}"
    )


class Link(StrictModel):
    """One stage of the chain."""

    stage: Literal["world", "pretrain", "sft", "reward", "dpo", "ppo", "merge", "evaluate", "report"] = Field(
        description="what runs; world: the demo's data and untrained model"
    )
    config: str | None = Field(default=None, description="its YAML file, seen from the pipeline's; null: `set` is all")
    set: dict[str, Any] = Field(
        default={},
        description="settings by dotted key; ${link.model}, .adapter, .data and .run: what an earlier link leaves",
    )


class PipelineConfig(StrictModel):
    """`medrl pipeline`: each stage takes what earlier ones left."""

    output_dir: str = Field(default="runs/pipeline", description="folder of all its runs, one a link")
    seed: int = Field(default=0, ge=0, description="seed of every stage")
    links: dict[str, Link] = Field(min_length=1, description="name → stage, in the order they run")

    @field_validator("links")
    @classmethod
    def _names(cls, links: dict[str, Link]) -> dict[str, Link]:
        for name in links:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"a link's name is made of letters, digits, _ and -, got {name!r}")
        return links
