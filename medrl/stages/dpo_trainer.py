"""TRL's DPO losses on medrl's tokens and on reference log-probs that are computed once, before the first update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import peft
import torch
from datasets import Dataset
from trl import DPOTrainer

from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.reference import ReferenceSpec, reference_active
from medrl.models.forward import policy_forward
from medrl.workers.evaluation import batches, over_ranks, padded

TOKENS = 16384  # in one forward pass


class ExactDPOTrainer(DPOTrainer):
    """`reference`: what the untrained model passed in is switched to for the reference; None: it is the reference.

    The table has prompt_ids, and chosen_ids and rejected_ids with the prompt in front. No second model is kept, and no
    second adapter: TRL adds one named "ref", trainable, to every model that has an adapter already.
    """

    def __init__(self, *args: Any, reference: ReferenceSpec | None, **kwargs: Any) -> None:
        self.reference = reference
        trained = manifest(kwargs["model"])
        super().__init__(*args, **kwargs)
        if isinstance(self.model, peft.PeftModel) and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")
        check_manifest(kwargs["model"], trained)

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        rows = dataset.to_list()
        start = [len(row["prompt_ids"]) for row in rows]
        return Dataset.from_dict({
            "prompt_ids": [row["prompt_ids"] for row in rows],
            **{side: [row[side][n:] for row, n in zip(rows, start, strict=True)]
               for side in ("chosen_ids", "rejected_ids")},
        })

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        model: Any = self.model
        switch = reference_active(model, self.reference) if self.reference else nullcontext()
        mode = model.training
        model.eval()
        with switch, torch.no_grad():
            for side in ("chosen", "rejected"):
                rows = list(zip(dataset["prompt_ids"], dataset[f"{side}_ids"], strict=True))
                sums = over_ranks(lambda share: answer_logprobs(model, share), rows)
                dataset = dataset.add_column(f"ref_{side}_logps", sums.tolist())
        model.train(mode)
        return dataset


@torch.no_grad()
def answer_logprobs(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
    """Summed log-prob [n] float32 of each answer after its prompt, rows of (prompt ids, answer ids)."""
    result = np.zeros(len(rows), np.float32)
    device = next(model.parameters()).device
    for group in batches([len(prompt) + len(answer) for prompt, answer in rows], TOKENS):
        chosen = [rows[i] for i in group]
        ids = padded([[*prompt, *answer] for prompt, answer in chosen], 0, device)
        real = padded([[1] * (len(prompt) + len(answer)) for prompt, answer in chosen], 0, device)
        response = padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in chosen], 0, device)
        logprobs, _ = policy_forward(model, ids, real, response, 1.0, entropy=False)
        result[group] = logprobs.sum(1).cpu().numpy()
    return result


def first_loss(loss: str, beta: float) -> float:
    """Mean loss where policy and reference agree, so that every margin is 0 (Rafailov 2023; Azar 2023; Zhao 2023)."""
    return {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 1 / (2 * beta) ** 2}[loss]
