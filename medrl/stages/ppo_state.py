"""The loop's own state, and the checkpoints of a PPO run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medrl import checkpoint
from medrl.algo.kl import KlController, make_kl_controller
from medrl.checkpoint import Found
from medrl.config.ppo import PpoConfig
from medrl.data.prompts import PromptStream
from medrl.errors import CheckpointError, ConfigError
from medrl.types import Completion, Prompt
from medrl.workers.group import gather
from medrl.workers.launch import Workers

# A resumed run may differ from the saved one in these and in nothing else.
FREE_KEYS = ("output_dir", "name", "ray", "checkpoint", "evaluation", "tracking", "mlflow", "timeouts", "faults")


def find_checkpoint(config: PpoConfig, report: Callable[[str], None] = print) -> Found | None:
    """The newest complete checkpoint of this run, before any worker starts; None when there is none.

    Raises CheckpointError when it belongs to another config, ConfigError when nothing is left to do.
    """
    found = newest_checkpoint(config, report)
    if found and found[0] >= config.steps:
        raise ConfigError(
            f"the run is complete: its newest checkpoint is of step {found[0]}",
            limit=f"a checkpoint before step {config.steps}",
            remedy="nothing is left to do; train on by starting a new run from its merged model",
        )
    return found


def newest_checkpoint(config: PpoConfig, report: Callable[[str], None] = print) -> Found | None:
    """The newest complete checkpoint of this run; None when there is none.

    Raises CheckpointError when it belongs to another config.
    """
    return checkpoint.find(checkpoint_root(config), partial(check_same_run, config=config), report)


def check_same_run(saved: Mapping[str, Any], config: PpoConfig) -> None:
    """CheckpointError unless a run of `config` can continue what was saved under the fingerprint `saved`.

    The number of ranks may differ at ZeRO 0, whose ranks all hold everything; from ZeRO 1 on each has saved its share
    of the optimizer's state, cut for that number.
    """
    before, now = deepcopy(dict(saved)), config_fingerprint(config)
    for role in ("learner", "critic"):
        ranks, wanted = before[role].pop("workers"), now[role].pop("workers")
        stage = now[role]["zero_stage"]
        if stage and ranks != wanted and before[role] == now[role]:
            raise CheckpointError(
                f"the {role} cannot be restored on another number of ranks",
                limit=f"{role}.workers {ranks}: at zero_stage {stage} each rank has saved its own share of the "
                "optimizer's state", got=f"{role}.workers {wanted}",
                remedy=f"set {role}.workers: {ranks}; with zero_stage 0, from the start of a run, the number is free")
    checkpoint.check_config(before, now)


@dataclass
class LoopState:
    """What the controller knows after a whole number of steps."""

    prompts: PromptStream
    kl: KlController
    step: int = 0
    evaluation_before: dict[str, float] = field(default_factory=dict)
    scores_before: dict[str, float] = field(default_factory=dict)  # held-out prompt id → score at step 0
    ahead: dict[int, list[Completion]] = field(default_factory=dict)  # step not yet done → its answers so far
    canary: list[float] = field(default_factory=list)
    canary_tolerance: float = 0.0  # bit-identical within a process, 1e-5 after a resume
    _snapshot: dict = field(default_factory=dict)

    @classmethod
    def begin(cls, config: PpoConfig, prompts: PromptStream) -> LoopState:
        """Before the first step."""
        prompts.restart()
        return cls(prompts, make_kl_controller(config.algorithm.kl))

    def complete(self, step: int) -> None:
        """Step `step` is done: what `save` writes from now on, even if a later step breaks off half-way."""
        self.step = step
        self.ahead.pop(step, None)
        self._snapshot = {
            "step": step,
            "prompts": self.prompts.state(),
            "kl": self.kl.state(),
            "evaluation_before": self.evaluation_before,
            "scores_before": self.scores_before,
            "canary": self.canary,
        }

    def save(self, config: PpoConfig, workers: Workers) -> Path:
        """Write a complete checkpoint of the last finished step. The answers to all prompts dealt by its end must be
        there."""

        def write(path: Path) -> None:
            w = workers
            gather(w.policy.save(str(path / "policy")), w.critic.save(str(path / "critic")) if w.critic else None)

        steps = range(self.step + 1, self._snapshot["prompts"]["batches"] + 1)
        ahead = [to_rows(self.ahead[step]) for step in steps]
        meta = self._snapshot | {"ahead": ahead, "config": config_fingerprint(config)}
        return checkpoint.save(checkpoint_root(config), self.step, write, config.checkpoint.keep_last, meta)

    def restore(self, found: Found, workers: Workers) -> None:
        """Continue from a checkpoint of this run."""
        step, path, meta = found
        w = workers
        gather(w.policy.load(str(path / "policy")), w.critic.load(str(path / "critic")) if w.critic else None)
        self.prompts.load(meta["prompts"])
        self.kl.load(meta["kl"])
        prompts = {prompt.id: prompt for prompt in self.prompts.prompts}
        self.ahead = {number: from_rows(rows, prompts) for number, rows in enumerate(meta["ahead"], step + 1)}
        self.evaluation_before, self.scores_before = meta["evaluation_before"], meta["scores_before"]
        self.canary, self.canary_tolerance = meta["canary"], 1e-5
        self.complete(step)

    def export(self, config: PpoConfig) -> Path:
        """Copy the newest checkpoint's trained part to <run>/adapter (LoRA) or <run>/model; returns that folder."""
        found = checkpoint.latest(checkpoint_root(config))
        assert found is not None  # the last step always saves
        kind = "adapter" if config.lora else "model"
        target = Path(config.run_dir) / kind
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(found[1] / "policy" / kind, target)
        return target


def checkpoint_root(config: PpoConfig) -> Path:
    return Path(config.run_dir) / "checkpoints"


def config_fingerprint(config: PpoConfig) -> dict:
    """The part of the config that a resumed run must share with the saved one."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in FREE_KEYS}

def to_rows(completions: Sequence[Completion]) -> list[list]:
    """As JSON values, prompts by their ids: [prompt id, sample, ids, log-probs, finish, version]."""
    return [[c.prompt.id, c.sample, list(c.ids), list(c.logprobs), c.finish, c.version] for c in completions]


def from_rows(rows: Sequence[Sequence], prompts: Mapping[str, Prompt]) -> list[Completion]:
    """What `to_rows` wrote. Raises CheckpointError for a prompt that is not among `prompts` (by id)."""
    if missing := {row[0] for row in rows} - prompts.keys():
        raise CheckpointError("the checkpoint holds answers to prompts that are not there any more",
                              got=f"{len(missing)} of them", remedy="resume with the data of the run that wrote it")
    return [Completion(prompts[prompt], sample, tuple(ids), tuple(logprobs), finish, version)
            for prompt, sample, ids, logprobs, finish, version in rows]
