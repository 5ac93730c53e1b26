"""Configs of the supervised stages: continued pre-training, SFT and the reward model."""

from __future__ import annotations

from pydantic import Field

from medrl.config.common import DataChecks, SupervisedConfig, SupervisedData


class TextData(DataChecks):
    """Plain text for continued pre-training."""

    train: str = Field(description="passages: file, directory or hub dataset (docs/data-formats.md)")
    eval: str | None = Field(default=None, description="held-out data of the same kind")


class ConversationData(SupervisedData):
    """Conversations for SFT."""

    train: str = Field(description="conversations: file, directory or hub dataset (docs/data-formats.md)")
    eval: str | None = Field(default=None, description="held-out data of the same kind")


class PairData(SupervisedData):
    """Preference pairs for the reward model."""

    train: str = Field(description="preference pairs: file, directory or hub dataset (docs/data-formats.md)")
    eval: str = Field(description="held-out pairs of the same kind, for accuracy")
    calibration: str | None = Field(
        default=None,
        description="SFT conversations, scored 0 ± 1 after calibration; null: the chosen answers of `eval`",
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
