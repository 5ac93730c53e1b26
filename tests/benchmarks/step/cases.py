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
    attention: Literal["sdpa", "eager"] = "sdpa"  # of all models that train or score; the faster one on a CPU
    lora_rank: int | None = None  # of policy and critic; None: both train in full
    epochs: int = 4
    mini_batches: int = 4
    width: int = 256  # of the model: 4.2 million parameters at 256
    own: tuple[str, ...] = ()  # settings of `medrl ppo` beyond these, as `a.b=value`; TRL does not get them
    peer: str | None = None  # the case whose run of TRL it is compared with; None: medrl alone

    @property
    def value_head(self) -> bool:
        """Whether one pass through one model serves policy and critic."""
        return "critic.mode=head" in self.own

    @property
    def ranks(self) -> int:
        """Learner ranks, each with parameters of its own."""
        settings = dict(setting.split("=", 1) for setting in self.own)
        return int(settings.get("learner.workers", 1))

    @property
    def model_key(self) -> str:
        """Which model of the world it uses."""
        return f"{self.width}-{self.prompt_tokens}-{self.answer_tokens}-{'ends' if self.ends else 'endless'}"

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Case:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


FULL = Case("full fp32", peer="full fp32")
LORA = replace(FULL, name="lora fp32", peer="lora fp32", lora_rank=8)
SHARED_CRITIC = replace(
    LORA, name="lora fp32, shared critic", own=("critic.mode=shared", "critic.init=policy"))
RANKS_OF_ONE_CORE = replace(
    SHARED_CRITIC, name="lora fp32, shared critic, two ranks",
    own=(*SHARED_CRITIC.own, "learner.workers=2", "learner.threads_per_worker=1"))
VALUE_HEAD = ("critic.mode=head", "critic.init=policy", "critic.lora=null", "learner.workers=2",
              "learner.threads_per_worker=1", "critic.workers=2", "critic.threads_per_worker=1")
BASE_THRICE = replace(LORA, name="lora fp32, three bases", peer=None, own=("reference.mode=dedicated",))
DEMO = replace(
    LORA, name="demo ×4", peer=None, width=560, lora_rank=16, epochs=2, answer_tokens=48, ends=True)
"""The demo's adapters, epochs, batch and length of answers, with a model of 17 million parameters for its 4.3."""
COMPILED = ("rollout.enforce_eager=false",)  # of a step in bfloat16 the engine's Python is a larger part
BESIDE_TRL = (
    FULL,
    LORA,
    replace(LORA, name="lora bf16", peer="lora bf16", dtype="bfloat16", attention="eager", own=COMPILED),
    replace(FULL, name="full bf16", peer="full bf16", dtype="bfloat16", attention="eager", own=COMPILED),
    replace(FULL, name="full fp32, ends", peer="full fp32, ends", ends=True),
    replace(LORA, name="lora fp32, ends", peer="lora fp32, ends", ends=True),
)
"""With a critic of its own, as TRL has it."""
ON_THE_POLICY = tuple(replace(case, name=f"{case.name}, value head", own=case.own + VALUE_HEAD) for case in BESIDE_TRL)
CASES = {
    case.name: case
    for case in (*BESIDE_TRL, *ON_THE_POLICY, SHARED_CRITIC, RANKS_OF_ONE_CORE, BASE_THRICE, DEMO)
}
