"""Configs of the supervised stages: continued pre-training, SFT and the reward model."""

from __future__ import annotations

from pydantic import Field

from medrl.config.base import StrictModel
from medrl.config.common import SupervisedConfig


class TextData(StrictModel):
    """Plain text for continued pre-training."""

    train: str = Field(description=".txt (passages separated by blank lines) or .jsonl with a `text` key")
    eval: str | None = Field(default=None, description="held-out file of the same kind")


class ConversationData(StrictModel):
    """Conversations for SFT."""

    train: str = Field(description=".jsonl with `messages` or `conversations`")
    eval: str | None = Field(default=None, description="held-out file of the same kind")


class PairData(StrictModel):
    """Preference pairs for the reward model."""

    train: str = Field(description=".jsonl with `messages`, `conversations` or `prompt`, and `chosen`, `rejected`")
    eval: str = Field(description="held-out pairs of the same kind, for accuracy")
    calibration: str | None = Field(
        default=None,
        description=".jsonl of SFT conversations, scored 0 ± 1 after calibration; null: the chosen answers of `eval`",
    )


class PretrainConfig(SupervisedConfig):
    """`medrl pretrain`: next-token training on packed text."""

    data: TextData


class SftConfig(SupervisedConfig):
    """`medrl sft`: training on conversations, loss on assistant tokens only."""

    data: ConversationData


class RewardConfig(SupervisedConfig):
    """`medrl reward`: a scalar model trained on preference pairs."""

    data: PairData
