"""Configs of the supervised stages: continued pre-training, SFT and the reward model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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


class PreferenceData(SupervisedData):
    """Preference pairs for DPO."""

    train: str = Field(description="preference pairs: file, directory or hub dataset (docs/data-formats.md)")
    eval: str = Field(description="held-out pairs of the same kind, for accuracy")


class DpoConfig(SupervisedConfig):
    """`medrl dpo`: a policy from preference pairs; its reference is the model it starts from."""

    data: PreferenceData
    beta: float = Field(default=0.1, gt=0, description="β: how dear it is to leave the reference")
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        default="sigmoid", description="sigmoid: DPO (Rafailov 2023); ipo: Azar 2023; hinge: SLiC (Zhao 2023)"
    )

    @model_validator(mode="after")
    def _no_noise(self):
        if self.lora and self.lora.dropout:
            raise ValueError(
                f"lora.dropout must be 0 in DPO (policy and reference would differ by noise), got {self.lora.dropout}"
            )
        if self.lora and (self.lora.bias != "none" or self.lora.init in ("pissa", "olora")):
            raise ValueError(
                "lora.bias other than none, and lora.init pissa or olora, change the base, which is the reference: "
                "use none and default or gaussian"
            )
        return self
