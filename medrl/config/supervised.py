"""Configs of the supervised stages: continued pre-training, SFT, the reward model and DPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medrl.config.base import StrictModel
from medrl.config.common import DataChecks, SupervisedConfig, SupervisedData, TrainingConfig


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


class SftTrainingConfig(TrainingConfig):
    """Optimisation of SFT (TRL under Ray Train)."""

    neftune_alpha: float | None = Field(
        default=None, gt=0,
        description="uniform noise of ±alpha / sqrt(tokens · width) on the input embeddings (NEFTune, Jain 2023)",
    )
    packing: bool = Field(
        default=False,
        description="several conversations in a row of max_length, none of which sees another; batch_size counts rows",
    )


class SftConfig(SupervisedConfig):
    """`medrl sft`: training on conversations, loss on assistant tokens only."""

    data: ConversationData
    training: SftTrainingConfig = SftTrainingConfig()  # pyright: ignore[reportIncompatibleVariableOverride]


class RewardConfig(SupervisedConfig):
    """`medrl reward`: a scalar model trained on preference pairs."""

    data: PairData


class PreferenceData(SupervisedData):
    """Preference pairs for DPO."""

    train: str = Field(description="preference pairs: file, directory or hub dataset (docs/data-formats.md)")
    eval: str = Field(description="held-out pairs of the same kind, for accuracy")


class DpoReferenceConfig(StrictModel):
    """The frozen model DPO measures against; without this section it is the model that training starts from."""

    adapter: str | None = Field(
        default=None,
        description="directory of an adapter of model.path, trained with this run's lora section: the policy continues "
        "it, a frozen copy is the reference",
    )
    model: str | None = Field(default=None, description="a copy of model.path, and refused if it is anything else")

    @model_validator(mode="after")
    def _one_kind(self):
        if (self.adapter is None) == (self.model is None):
            raise ValueError("needs exactly one of `adapter` and `model`; leave the section out for the starting model")
        return self


class DpoConfig(SupervisedConfig):
    """`medrl dpo`: a policy from preference pairs, without a reward model."""

    data: PreferenceData
    reference: DpoReferenceConfig | None = None
    beta: float = Field(default=0.1, gt=0, description="β: how dear it is to leave the reference")
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        default="sigmoid",
        description="sigmoid: DPO (Rafailov 2023); ipo: Azar 2023, mean over tokens; hinge: SLiC (Zhao 2023)",
    )

    @model_validator(mode="after")
    def _exact_reference(self):
        if self.lora:
            self.lora.check_no_dropout("DPO")
            self.lora.check_base_stays("leave both at their defaults")
        if self.reference and self.reference.adapter and not self.lora:
            raise ValueError("reference.adapter needs lora: the section that the adapter was trained with")
        if self.training.zero_stage == 3:
            raise ValueError("training.zero_stage 3 shards the weights before the reference is read: use 0, 1 or 2")
        return self
