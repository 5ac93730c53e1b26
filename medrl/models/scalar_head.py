"""A transformer with one scalar per position: the reward model when it scores, the critic when it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medrl.config.common import DType, ModelConfig
from medrl.errors import ModelError
from medrl.models.loading import load_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_NAMES = ("score", "classifier", "head")


class ScalarModel(nn.Module):
    """`backbone` (a transformers base model) and `head`, Linear(d, 1). The head computes in its own dtype (float32
    as built here), whatever the backbone's."""

    def __init__(self, backbone: PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = head

    def forward(self, ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor) -> Tensor:
        """ids, masks, positions [B, T] → scalars [B, T] float32, one at every position. No mask: packed sequences."""
        mask = None if attention_mask is None else attention_mask.long()
        hidden = self.backbone(
            input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float()

    @classmethod
    def from_reward(
        cls,
        path: str,
        dtype: DType,
        calibration: tuple[float, float] | None = None,
        **model_values: Any,
    ) -> ScalarModel:
        """From a sequence-classification checkpoint with one label; `calibration` (mean, std) is folded into the head:
        s ← (s − mean) / std. `model_values`: other fields of ModelConfig.

        Raises ModelError when the checkpoint has another number of labels or no trained head.
        """
        from transformers import AutoModelForSequenceClassification

        model = load_pretrained(AutoModelForSequenceClassification, ModelConfig(path=path, dtype=dtype, **model_values))
        trained = score_head(model)
        if trained.out_features != 1:
            raise ModelError(
                f"{path} is not a reward model",
                limit="1 label",
                got=f"{trained.out_features} labels",
                remedy="train one with `medrl reward`",
            )
        mean, std = calibration or (0.0, 1.0)
        if not std > 0:
            raise ModelError(f"the calibration of {path} cannot be used", limit="std > 0", got=f"std {std}")
        head = nn.Linear(trained.in_features, 1)
        with torch.no_grad():
            head.weight.copy_(trained.weight.float() / std)
            head.bias.fill_(((trained.bias.item() if trained.bias is not None else 0.0) - mean) / std)
        backbone: Any = model.base_model
        return cls(backbone, head).eval()

    @classmethod
    def from_causal(cls, path: str, dtype: DType, **model_values: Any) -> ScalarModel:
        """From a causal LM's trunk with a zero head: every scalar starts at 0. `model_values`: of ModelConfig."""
        from transformers import AutoModel

        backbone = load_pretrained(AutoModel, ModelConfig(path=path, dtype=dtype, **model_values))
        head = nn.Linear(backbone.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return cls(backbone, head).eval()

    # What PEFT and gradient checkpointing ask a transformers model for.

    @property
    def config(self) -> Any:
        return self.backbone.config

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.backbone.is_gradient_checkpointing

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.backbone.gradient_checkpointing_enable(**kwargs)

    def enable_input_require_grads(self) -> None:
        self.backbone.enable_input_require_grads()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()


def score_head(model: nn.Module) -> nn.Linear:
    """The scalar head of a sequence-classification model or ScalarModel. ModelError when it has none."""
    return model.get_submodule(score_head_name(model))  # pyright: ignore[reportReturnType]


def score_head_name(model: nn.Module) -> str:
    """Its name: `score`, `classifier` or `head`."""
    for name, child in model.named_children():
        if name in HEAD_NAMES and isinstance(child, nn.Linear):
            return name
    raise ModelError(
        f"{type(model).__name__} has no linear head with one scalar",
        remedy="use a model_type that has a sequence-classification class",
    )


def last_token_scores(scalars: Tensor, attention_mask: Tensor) -> Tensor:
    """Scalars [B, T] → [B]: the one at each row's last real token, found by the mask on either padding side."""
    last = attention_mask.shape[1] - 1 - attention_mask.long().flip(1).argmax(1)
    return scalars.gather(1, last.unsqueeze(1)).squeeze(1)
