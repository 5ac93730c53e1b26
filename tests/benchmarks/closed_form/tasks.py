"""What is run: medrl's PPO with each of its settings, and TRL's with several learning rates beside two of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

EPOCHS = 4
MINI_BATCHES = 2
LORA = {"rank": 8, "alpha": 16.0}


@dataclass(frozen=True)
class Task:
    """One block of the table. `target` is what the mean gap closed over seeds must reach (control: must not exceed)."""

    reward: str  # which reward model
    target: float | None = None
    trainer: Literal["medrl", "trl"] = "medrl"
    steps: int = 40
    batch_size: int = 64
    permuted: bool = False
    lora: bool = False
    value_head: bool = False  # on the policy, in place of a critic of its own
    max_staleness: Literal[0, 1] = 0
    policy_lr: float = 1e-3
    critic_lr: float = 1e-3


OWN = {
    "full": Task(reward="plain", target=0.68),
    "permuted": Task(reward="plain", target=0.1, permuted=True),
    "lora": Task(reward="plain", target=0.3, lora=True, policy_lr=3e-3),
    "conditional": Task(reward="conditional", target=0.6, batch_size=256),
    "head": Task(reward="plain", target=0.68, value_head=True),
    "lora_head": Task(reward="plain", target=0.3, lora=True, value_head=True, policy_lr=3e-3),
    "ahead": Task(reward="plain", target=0.68, max_staleness=1),
    "lora_ahead": Task(reward="plain", target=0.3, lora=True, policy_lr=3e-3, max_staleness=1),
}
PEER_RATES = {"full": (3e-4, 1e-3, 3e-3), "lora": (1e-3, 3e-3, 1e-2)}
PEER = {
    name: {f"trl_{name}_{rate:g}": replace(OWN[name], target=None, trainer="trl", policy_lr=rate) for rate in rates}
    for name, rates in PEER_RATES.items()
}
TASKS = OWN | PEER["full"] | PEER["lora"]

COMPARED = {
    "full": tuple(PEER["full"]), "lora": tuple(PEER["lora"]), "head": tuple(PEER["full"]),
    "lora_head": tuple(PEER["lora"]), "ahead": ("full",), "lora_ahead": ("lora",)}
"""Which tasks stand beside which: with the best of those, by its mean."""
MARGIN = 0.05
"""How much of the gap a task may stay behind what it is compared with: its interval has to lie above that."""
