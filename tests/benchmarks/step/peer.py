"""TRL 1.12's PPOTrainer on a case: `.venv-trl/bin/python peer.py CASE.json WORLD STEPS THREADS OUT.json`.

Runs in an environment of its own, without medrl's: it imports nothing but `cases`. Settings are TRL's fastest: one
micro-batch a mini-batch, one generation batch a step, no sample generations, no tracking.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from cases import Case  # pyright: ignore[reportImplicitRelativeImport, reportMissingImports]
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental import ppo  # pyright: ignore[reportAttributeAccessIssue]
from trl.experimental.ppo import ppo_trainer  # pyright: ignore[reportMissingImports]

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Stopwatch(TrainerCallback):
    """Seconds of each step, and of the generation in it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.generation: list[float] = []
        self.last = time.perf_counter()
        self.generating = 0.0
        inner = ppo_trainer.batch_generation

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.generating += time.perf_counter() - start

        ppo_trainer.batch_generation = timed

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.generation.append(self.generating)
        self.last, self.generating = time.perf_counter(), 0.0


def main() -> None:
    case, world, out = Case.load(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[5])
    steps, threads = map(int, sys.argv[3:5])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(world / "policy")
    how = {"dtype": torch.float32, "attn_implementation": case.attention}
    policy, reference = (AutoModelForCausalLM.from_pretrained(world / "policy", **how) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(world / "reward", num_labels=1, **how) for _ in range(2))
    lora = None
    if case.lora_rank:
        settings = {"r": case.lora_rank, "lora_alpha": 2 * case.lora_rank, "target_modules": LINEAR}
        lora, reference = LoraConfig(**settings, task_type="CAUSAL_LM"), None
        # In place: TRL looks for the backbone under the name it has without PEFT's wrapper.
        value = inject_adapter_in_model(LoraConfig(**settings), value)
        value.score.requires_grad_(True)
    rows = [json.loads(line)["prompt"] for line in (world / "prompts.jsonl").read_text().splitlines()]
    data = Dataset.from_list([{"input_ids": tokenizer(row)["input_ids"]} for row in rows])
    arguments = ppo.PPOConfig(
        output_dir="unused", use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1e9,
        total_episodes=steps * case.prompts, per_device_train_batch_size=case.prompts, gradient_accumulation_steps=1,
        num_mini_batches=case.mini_batches, num_ppo_epochs=case.epochs, local_rollout_forward_batch_size=case.prompts,
        response_length=case.answer_tokens, stop_token="eos", num_sample_generations=0, learning_rate=1e-5,
        bf16=case.dtype == "bfloat16", seed=0)
    watch = Stopwatch()
    trainer = ppo.PPOTrainer(
        args=arguments, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=data, eval_dataset=data.select(range(case.prompts)), peft_config=lora,
        callbacks=[watch])
    watch.last = time.perf_counter()
    trainer.train()
    out.write_text(json.dumps({"steps": watch.steps, "generate": watch.generation}))


if __name__ == "__main__":
    main()
