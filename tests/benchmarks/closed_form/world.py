"""What all runs share: prompts, the reference, a reward model a task, and the exact bound of each task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medrl.config.common import ModelConfig
from medrl.models.export import load_calibration
from medrl.models.loading import load_causal_lm
from medrl.models.scalar_head import ScalarModel
from tests.benchmarks.closed_form import grammar
from tests.benchmarks.closed_form.exact import Answers, Bound, answer_logprobs, answer_scores, word_sequences
from tests.benchmarks.closed_form.grammar import TASKS, Answer
from tests.benchmarks.closed_form.models import train_reference, train_reward

HELD_OUT = 16  # prompts no run trains on
BETA = 0.1
SCORE_CLIP = 5.0


@dataclass(frozen=True)
class World:
    """Folders of what was trained, and the bounds."""

    folder: Path
    held_out: list[list[int]]  # token ids of the held-out prompts
    bounds: dict[str, Bound]  # by task
    accuracy: dict[str, float]  # of each reward model on fresh pairs

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    def reward(self, task: str) -> Path:
        return self.folder / f"reward_{task}"


def make_world(folder: Path, steps: int = 800) -> World:
    """Trains what `folder` does not hold yet (a few minutes), then lists every answer to every held-out prompt."""
    train, held_out = grammar.split_prompts(HELD_OUT)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in train))
    facts = folder / "accuracy.json"
    if not facts.exists():
        train_reference(folder / "reference", train, steps)
        accuracy = {task: train_reward(folder / f"reward_{task}", task, train, steps) for task in TASKS}
        facts.write_text(json.dumps(accuracy))
    prompts = [grammar.token_ids(prompt, Answer((), ended=False)) for prompt in held_out]
    answers = Answers.all()
    reference = policy_logprobs(folder / "reference", prompts)
    bounds = {}
    for task in TASKS:
        path = folder / f"reward_{task}"
        model = ScalarModel.from_reward(str(path), "float32", load_calibration(path))
        scores = torch.stack([answer_scores(model, prompt, answers, SCORE_CLIP) for prompt in prompts])
        gold = torch.stack([gold_scores(task, prompt, answers) for prompt in held_out])
        bounds[task] = Bound(BETA, answers, reference, scores, gold)
    return World(folder, prompts, bounds, json.loads(facts.read_text()))


def policy_logprobs(path: Path, prompts: list[list[int]], adapter: Path | None = None) -> Tensor:
    """log π [P, N] of all answers to the prompts; with LoRA, of the model at `path` under `adapter`."""
    model = load_causal_lm(ModelConfig(path=str(path)))
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return torch.stack([answer_logprobs(model, prompt) for prompt in prompts])


def gold_scores(task: str, prompt: str, answers: Answers) -> Tensor:
    """[N] float64: what the reward model was to learn."""
    sequences = [tuple(grammar.VOCABULARY[i] for i in ids) for ids in word_sequences()]
    by_node = torch.tensor(
        [[grammar.gold(task, prompt, Answer(words, ended)) for words in sequences] for ended in (False, True)],
        dtype=torch.float64)
    return by_node[answers.ended.long(), answers.node]
