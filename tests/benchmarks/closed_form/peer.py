"""TRL 1.12's PPOTrainer on the benchmark's problem: `.venv-trl/bin/python peer.py SETTINGS.json RESULT`.

Runs in an environment of its own, without medrl's: it imports nothing but `peer_reward`. TRL takes its reward from a
reward model; `ExactReward` looks like one and gives the score that medrl's reward worker gives and that J is made of.
One optimizer has two groups, for policy and value model each have their learning rate. TRL does not clip gradients and
puts the score one position after the end token: it is left as it is. RESULT/model or RESULT/adapter is what it trained.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peer_reward import ExactReward  # pyright: ignore[reportImplicitRelativeImport, reportMissingImports]
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental import ppo  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Arguments(ppo.PPOConfig):
    value_lr: float = 0.0


class TwoRates(ppo.PPOTrainer):
    """Policy and value model each with a learning rate of its own."""

    def create_optimizer(self, model=None):
        rates = ((self.policy_model, self.args.learning_rate), (self.value_model, self.args.value_lr))
        groups = [{"params": [p for p in part.parameters() if p.requires_grad], "lr": lr} for part, lr in rates]
        self.optimizer = torch.optim.AdamW(groups, eps=self.args.adam_epsilon, weight_decay=0.0)
        return self.optimizer


def main() -> None:
    settings, result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    reference = settings["reference"]
    tokenizer = AutoTokenizer.from_pretrained(reference)
    policy, frozen = (AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32) for _ in range(2))
    value = AutoModelForSequenceClassification.from_pretrained(reference, num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(value.score.weight)
    scorer = AutoModelForSequenceClassification.from_pretrained(settings["reward"], dtype=torch.float32)
    reward = ExactReward(
        scorer, settings["calibration"], settings["score_clip"], settings["prompt_tokens"], tokenizer.eos_token_id,
        tokenizer.all_special_ids)
    lora = None
    if settings["lora"]:
        rank, alpha = settings["lora"]["rank"], settings["lora"]["alpha"]
        lora, frozen = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"), None
    rows = [json.loads(line)["prompt"] for line in Path(settings["prompts"]).read_text().splitlines()]
    data = Dataset.from_list([{"input_ids": prompt_ids(tokenizer, row)} for row in rows])
    batch = settings["batch_size"]
    trainer = TwoRates(
        args=Arguments(
            output_dir=str(result), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
            logging_steps=1, num_sample_generations=0, seed=settings["seed"], total_episodes=settings["steps"] * batch,
            per_device_train_batch_size=batch, gradient_accumulation_steps=1, local_rollout_forward_batch_size=batch,
            num_ppo_epochs=settings["epochs"], num_mini_batches=settings["mini_batches"], stop_token="eos",
            response_length=settings["max_tokens"], temperature=1.0, kl_coef=settings["beta"], kl_estimator="k1",
            gamma=settings["gamma"], lam=settings["lam"], cliprange=settings["clip"],
            cliprange_value=settings["value_clip"], whiten_rewards=False, learning_rate=settings["policy_lr"],
            value_lr=settings["critic_lr"], adam_epsilon=settings["adam_eps"], lr_scheduler_type="linear"),
        processing_class=tokenizer, model=policy, ref_model=frozen, reward_model=reward, value_model=value,
        train_dataset=data, eval_dataset=data.select(range(batch)), peft_config=lora)
    trainer.train()
    trainer.policy_model.save_pretrained(result / ("adapter" if lora else "model"))


def prompt_ids(tokenizer, prompt: str) -> list[int]:
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


if __name__ == "__main__":
    main()
