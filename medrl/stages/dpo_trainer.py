"""TRL's DPO losses on medrl's tokens, and on reference log-probs that are computed once, before the first update."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import peft
import pyarrow as pa
from trl import DPOTrainer

from medrl.config.supervised import DpoConfig
from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.reference import ReferenceSpec, attach_reference, reference_active
from medrl.workers.callbacks import FirstLoss
from medrl.workers.evaluation import answer_logprobs, preference, preference_loss

SIDES = ("chosen", "rejected")


class ExactDPOTrainer(DPOTrainer):
    """DPO on the columns of `with_reference`. No second model is kept, and no second adapter: TRL adds one named
    "ref", trainable, to every model that has an adapter already."""

    def __init__(self, model: Any, **kwargs: Any) -> None:
        trained = manifest(model)
        super().__init__(model=model, **kwargs)
        if isinstance(model, peft.PeftModel):
            model.delete_adapter("ref")
        check_manifest(model, trained)

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        return dataset


def with_reference(model: Any, reference: ReferenceSpec, tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Tables of pairs as TRL reads them: prompt_ids, both answers alone, and the reference's log-prob of either.

    `model` is the untrained policy: it is made to start at its reference, and without an adapter it is the reference.
    """
    switch = nullcontext()
    if isinstance(model, peft.PeftModel):
        attach_reference(model, reference)
        switch = reference_active(model, reference)
    with switch:
        return {name: _pairs_with_reference(model, table) for name, table in tables.items()}


def _pairs_with_reference(model: Any, table: pa.Table) -> pa.Table:
    prompts = table["prompt_ids"].to_pylist()
    columns: dict[str, Any] = {"prompt_ids": table["prompt_ids"]}
    for side in SIDES:
        answers = [ids[len(prompt):] for prompt, ids in zip(prompts, table[f"{side}_ids"].to_pylist(), strict=True)]
        columns[f"{side}_ids"] = pa.array(answers, pa.list_(pa.int32()))
        columns[f"ref_{side}_logps"] = answer_logprobs(model, prompts, answers)
    return pa.table(columns)


def pair_figures(model: Any, config: DpoConfig, table: pa.Table) -> dict[str, Any]:
    """Loss, accuracy and margin (of β·log(policy / reference), chosen less rejected) on a table of `with_reference`."""
    prompts = table["prompt_ids"].to_pylist()
    gains, lengths = [], []
    for side in SIDES:
        answers = table[f"{side}_ids"].to_pylist()
        gains.append(answer_logprobs(model, prompts, answers) - table[f"ref_{side}_logps"].to_numpy())
        lengths.append(np.array([len(ids) for ids in answers]))
    margins = config.beta * (gains[0] - gains[1])
    by_token = gains[0] / lengths[0] - gains[1] / lengths[1]
    loss = {"sigmoid": preference_loss(margins), "hinge": float(np.maximum(0, 1 - margins).mean()),
            "ipo": float(((by_token - 1 / (2 * config.beta)) ** 2).mean())}[config.loss]
    return preference(margins) | {"eval_loss": loss}


def first_loss(config: DpoConfig, table: pa.Table) -> FirstLoss:
    """Mean loss where policy and reference agree, so that every margin is 0 (Rafailov 2023; Azar 2023; Zhao 2023).

    In float32 it must hold within 1e-6, and what rounding makes of the longest answer's summed log-prob. In bfloat16
    TRL's and our own forward pass round differently: 0.05.
    """
    expected = {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 1 / (2 * config.beta) ** 2}[config.loss]
    largest = max(float(np.abs(table[f"ref_{side}_logps"].to_numpy()).max()) for side in SIDES)
    exact = 1e-6 + config.beta * largest * float(np.finfo(np.float32).eps)
    return FirstLoss(expected, exact if config.model.dtype == "float32" else 0.05)
