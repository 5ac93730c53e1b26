"""What `medrl inspect` looks at: a model with a LoRA section, from a stage's YAML or from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from medrl.config.base import StrictModel, build_config, load_config
from medrl.config.common import DType, LoraConfig, ModelConfig
from medrl.errors import ConfigError


class ModelAndLora(StrictModel):
    """The two sections of a stage's config that decide what trains; the others may hold anything."""

    model_config = ConfigDict(extra="ignore")

    model: ModelConfig
    lora: LoraConfig | None = None


class InspectConfig(StrictModel):
    """A model, what trains in it, and the batch that memory is counted for."""

    model: ModelConfig
    lora: LoraConfig | None = Field(description="null: full fine-tuning")
    dtype: DType | None = Field(description="of the weights; null: as config.json says")
    task: Literal["causal", "scalar"] = Field(default="causal", description="language model, or one with a scalar head")
    batch: int = Field(default=1, ge=1, description="sequences per forward pass")
    length: int = Field(default=2048, ge=1, description="tokens per sequence")


def inspect_config(source: str, targets: list[str] | None, match: str | None, **values: Any) -> InspectConfig:
    """`source` is a stage's YAML, or a model (directory or hub id), which then gets the default LoRA section.

    `targets` and `match` replace those of the LoRA section; `values`: the other fields. Raises ConfigError.
    """
    if Path(source).suffix in (".yaml", ".yml"):
        sections = load_config(ModelAndLora, source)
        model, lora, dtype = sections.model, sections.lora, sections.model.dtype
    else:
        if Path(source).is_file():
            raise ConfigError(
                f"{source} is neither a config nor a model", limit="a .yaml file, a model directory or a hub id"
            )
        model, lora, dtype = ModelConfig(path=source), LoraConfig(), None
    changes = {key: value for key, value in (("targets", targets), ("match", match)) if value is not None}
    if changes:
        lora = build_config(LoraConfig, (lora or LoraConfig()).model_dump() | changes, source="command line")
    return build_config(InspectConfig, {"model": model, "lora": lora, "dtype": dtype, **values}, source="command line")
