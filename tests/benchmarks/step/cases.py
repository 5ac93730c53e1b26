"""What is measured: one PPO step under settings that both sides can be given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Case:
    """The settings of one measurement. The policy, its critic and the reward model have the same shape."""

    name: str
    prompts: int = 64  # per step, one answer each
    prompt_tokens: int = 32
    answer_tokens: int = 64  # the limit
    ends: bool = False  # whether answers end by themselves, at half the limit on average
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora_rank: int | None = None  # of policy and critic; None: both train in full
    epochs: int = 4
    mini_batches: int = 4
    width: int = 256  # of the model: 4.2 million parameters at 256

    @property
    def model_key(self) -> str:
        """Which model of the world it uses."""
        return f"{self.width}-{self.prompt_tokens}-{self.answer_tokens}-{'ends' if self.ends else 'endless'}"

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Case:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


FULL = Case("full fp32")
CASES = {
    case.name: case
    for case in (
        FULL,
        replace(FULL, name="lora fp32", lora_rank=8),
        replace(FULL, name="lora bf16", lora_rank=8, dtype="bfloat16"),
        replace(FULL, name="full bf16", dtype="bfloat16"),
        replace(FULL, name="full fp32, ends", ends=True),
        replace(FULL, name="lora fp32, ends", ends=True, lora_rank=8),
    )
}
SWEEP = {
    case.name: case
    for case in (
        replace(FULL, name="batch ×2", prompts=128),
        replace(FULL, name="answers ×2", answer_tokens=128),
        replace(FULL, name="width ×2", width=512),
    )
}
"""Each doubles one thing of "full fp32"."""
