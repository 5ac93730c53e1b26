"""Config of the RL algorithm: advantages, the leash to the reference, the loss."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from medrl.config.base import StrictModel
from medrl.config.rewards import RewardShaping


class KlConfig(StrictModel):
    """The leash to the reference."""

    coef: float = Field(default=0.05, ge=0, description="β at the start")
    estimator: Literal["k1", "k2", "k3"] = Field(default="k1", description="per-token estimator")
    use: Literal["reward", "loss"] = Field(
        default="reward", description="subtract β·kl from the rewards, or add it to the loss"
    )
    controller: Literal["fixed", "adaptive"] = Field(
        default="fixed", description="adaptive: Ziegler 2019, β follows `target`"
    )
    target: float = Field(default=6.0, gt=0, description="adaptive: wanted KL, summed over a sequence")
    horizon: int = Field(default=10_000, ge=1, description="adaptive: answers over which β adapts")
    limit: float | None = Field(
        default=None,
        gt=0,
        description="end the run when a batch's mean KL, summed over a sequence, exceeds this; null: never",
    )


# What each paper does where it differs from the fields' own defaults. A setting that is given stays as given.
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "gae": {},
    "rloo": {"whiten_advantages": False},
    "grpo": {
        "whiten_advantages": False, "aggregation": "sequence_mean", "kl": {"use": "loss", "estimator": "k3"},
    },
    "dr_grpo": {"whiten_advantages": False, "aggregation": "token_sum", "kl": {"use": "loss", "estimator": "k3"}},
    "reinforce_pp": {},
    "reinforce_pp_baseline": {"kl": {"use": "loss", "estimator": "k2"}},
}


class AlgorithmConfig(StrictModel):
    """PPO's numbers (formulas: docs/PPO.md)."""

    advantage: Literal["gae", "rloo", "grpo", "dr_grpo", "reinforce_pp", "reinforce_pp_baseline"] = Field(
        default="gae",
        description="gae trains a critic; the others compare answers and need none. Each sets the defaults of "
        "whiten_advantages, aggregation, kl.use and kl.estimator to those of its paper",
    )
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount (gae only)")
    lam: float = Field(default=0.95, ge=0, le=1, description="GAE λ (gae only)")
    bootstrap_truncated: bool = Field(
        default=False, description="an answer cut by max_tokens bootstraps from the value after its last token"
    )
    whiten_advantages: bool = Field(default=True, description="whiten over all response tokens of the whole batch")
    kl: KlConfig = KlConfig()
    reward: RewardShaping = RewardShaping()
    epochs: int = Field(default=4, ge=1, description="passes over a batch")
    mini_batches: int = Field(default=2, ge=1, description="optimizer steps a pass")
    clip_low: float = Field(default=0.2, gt=0, lt=1, description="ε below 1")
    clip_high: float = Field(default=0.2, gt=0, description="ε above 1")
    dual_clip: float | None = Field(default=None, gt=1, description="c of the dual clip; null: off")
    value_clip: float | None = Field(default=0.2, gt=0, description="clip of the value change; null: off")
    entropy_coef: float = Field(default=0.0, ge=0, description="entropy bonus")
    target_kl: float | None = Field(
        default=None,
        gt=0,
        description="stop a batch's epochs when the mean k3 from the old policy exceeds it; null: off",
    )
    aggregation: Literal["token_mean", "sequence_mean", "token_sum"] = Field(
        default="token_mean", description="how per-token losses become one number (token_sum: over B·max_tokens)"
    )
    importance: Literal["off", "truncate", "mask"] = Field(
        default="off", description="weights between the engine's and the learner's log-probs"
    )
    importance_level: Literal["token", "sequence"] = Field(
        default="token", description="weight each token, or the whole answer (product over its tokens)"
    )
    importance_cap: float = Field(
        default=2.0, gt=1, description="truncate: upper bound C; mask: weights outside [1/C, C] become 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any):
        if not isinstance(values, dict):
            return values
        published = AS_PUBLISHED.get(values.get("advantage", "gae"), {})
        kl = values.get("kl", {})
        merged = {key: value for key, value in published.items() if key != "kl"} | values
        if "kl" in published and isinstance(kl, dict):
            merged["kl"] = published["kl"] | kl
        return merged

    @model_validator(mode="after")
    def _possible(self):
        if self.kl.use == "loss" and self.kl.estimator == "k1":
            raise ValueError(
                "kl.estimator k1 as a loss pulls nowhere on average; use k2 (the gradient of the KL) or k3, "
                "or kl.use: reward"
            )
        if self.bootstrap_truncated and self.advantage != "gae":
            raise ValueError(f"bootstrap_truncated needs a critic: turn it off with advantage {self.advantage}")
        return self
