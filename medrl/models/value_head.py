"""A causal LM with a value per position beside its logits: the actor-critic with one trunk."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ActorCritic(nn.Module):
    """`policy` (a causal LM, with adapters or without) and `value_head`, Linear(d, 1) on what its output head reads.

    The value head starts at 0, and computes in its own dtype (float32 as built here). The module stands in for the
    policy: its forward pass, config and output head are the policy's.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy: Any = policy
        self.value_head = nn.Linear(self.policy.get_output_embeddings().weight.shape[-1], 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, **inputs: Any) -> Any:
        return self.policy(**inputs)

    def scalars(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] → values [...] float32."""
        return self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1).float()

    @property
    def config(self) -> Any:
        return self.policy.config

    def get_output_embeddings(self) -> nn.Module:
        return self.policy.get_output_embeddings()
