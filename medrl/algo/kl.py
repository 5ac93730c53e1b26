"""KL to the reference: per-token estimators and the controllers of its coefficient β."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from medrl.algo.masking import at_least_float32
from medrl.config.algorithm import KlConfig

Estimator = Literal["k1", "k2", "k3"]
MAX_LOG_RATIO = 20.0  # exp of more says nothing that 5e8 does not, and overflows


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate [B, T] of KL(π‖ρ) from tokens drawn by π; x = log π − log ρ.

    k1 = x, k2 = x²/2, k3 = e^(−x) − 1 + x (Schulman 2020, "Approximating KL divergence"). k1 and k3 are unbiased, k3
    is never negative. Estimator and gradient differ: detached in the reward only k1 gives the KL's gradient; as a
    loss only k2 does, on samples of the current policy.
    """
    x = at_least_float32(logprobs) - at_least_float32(ref_logprobs)
    match estimator:
        case "k1":
            return x
        case "k2":
            return x.square() / 2
        case "k3":
            return torch.expm1((-x).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)) + x


class KlController(Protocol):
    """Holds β, and moves it (or not) after each rollout batch. `state` and `load` carry it through a checkpoint."""

    coef: float

    def update(self, kl_sum_mean: float, n_samples: int) -> None: ...

    def state(self) -> dict[str, float]: ...

    def load(self, state: dict[str, float]) -> None: ...


class FixedKl:
    """β stays."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl_sum_mean: float, n_samples: int) -> None:
        """Nothing to do: β is fixed."""

    def state(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]


class AdaptiveKl(FixedKl):
    """β ← β·(1 + e·n/horizon), e = clip(KL/target − 1, −0.2, 0.2) (Ziegler 2019, §2.2).

    KL is the mean over sequences of the k1 sum over a sequence, in nats, so `target` is a sum too: targets of
    libraries that take the per-token mean are not interchangeable with it.
    """

    def __init__(self, coef: float, target: float, horizon: int) -> None:
        super().__init__(coef)
        self.target = target
        self.horizon = horizon

    def update(self, kl_sum_mean: float, n_samples: int) -> None:
        """Take in one global batch of `n_samples` answers."""
        error = min(max(kl_sum_mean / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * n_samples / self.horizon


def make_kl_controller(config: KlConfig) -> KlController:
    """The controller that `config.controller` names."""
    if config.controller == "adaptive":
        return AdaptiveKl(config.coef, config.target, config.horizon)
    return FixedKl(config.coef)
