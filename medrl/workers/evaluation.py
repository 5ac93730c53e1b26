"""Held-out figures of a model in training and of the one that was saved; rows are shared out over the workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from medrl.algo.intervals import wilson_interval
from medrl.algo.masking import position_ids
from medrl.data.tables import IGNORED
from medrl.models.device import pick_device
from medrl.models.forward import policy_forward
from medrl.models.loading import load_causal_lm
from medrl.models.scalar_head import ScalarModel, last_token_scores
from medrl.workers.supervised import Job

TOKENS = 16384  # in one forward pass
LOGITS = 2**28  # numbers in one forward pass; 1 GiB in float32


def saved_causal(job: Job) -> Any:
    """The language model that was saved, ready to be measured."""
    model: Any = load_causal_lm(job.config.model.model_copy(update={"path": str(job.model)}))
    return model.to(pick_device())


def causal_figures(model: Any, table: pa.Table) -> dict[str, float]:
    """Loss per learned token, perplexity and accuracy on rows with input_ids and labels."""
    ids, labels = table["input_ids"].to_pylist(), table["labels"].to_pylist()
    losses = over_ranks(lambda rows: _token_losses(model, rows), list(zip(ids, labels, strict=True)))
    loss, tokens, correct = losses.sum(0).tolist()
    mean = loss / tokens
    return {"eval_loss": mean, "eval_perplexity": math.exp(mean), "eval_token_accuracy": correct / tokens}


def _token_budget(model: Any) -> int:
    """Tokens of one forward pass of a language model."""
    return min(TOKENS, LOGITS // model.config.get_text_config().vocab_size)


@torch.no_grad()
def _token_losses(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
    """Per row: summed negative log-prob of the learned tokens, their number, how many the model puts first. [n, 3]"""
    result = np.zeros((len(rows), 3))
    for group in batches([len(ids) for ids, _ in rows], _token_budget(model)):
        ids = padded([rows[i][0] for i in group], 0, model.device)
        labels = padded([rows[i][1] for i in group], IGNORED, model.device)[:, 1:]
        real = padded([[1] * len(rows[i][0]) for i in group], 0, model.device)
        logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        learned = labels != IGNORED
        correct = learned & (logits.argmax(-1) == labels)
        result[group] = torch.stack([losses.double().sum(1), learned.sum(1), correct.sum(1)], 1).cpu().numpy()
    return result


def score_answers(job: Job, columns: Sequence[pa.ChunkedArray]) -> list[np.ndarray]:
    """Raw scores [n] by the reward model that was saved, of each column's rows of token ids."""
    model = ScalarModel.from_reward(str(job.model), job.config.model.dtype).to(pick_device())
    return [over_ranks(lambda rows: _scores(model, rows), column.to_pylist()) for column in columns]


def classifier_scores(model: Any, column: pa.ChunkedArray) -> np.ndarray:
    """Scores [n] by a sequence classifier in training, of a column's rows of token ids."""
    return over_ranks(lambda rows: _classifier_scores(model, rows), column.to_pylist())


@torch.no_grad()
def _classifier_scores(model: Any, rows: Sequence[list[int]]) -> np.ndarray:
    result = np.zeros(len(rows))
    fill = model.config.get_text_config().pad_token_id  # by it the classifier finds the last token
    for group in batches([len(ids) for ids in rows], TOKENS):
        ids = padded([rows[i] for i in group], fill, model.device)
        real = padded([[1] * len(rows[i]) for i in group], 0, model.device)
        scores = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, 0]
        result[group] = scores.double().cpu().numpy()
    return result


@torch.inference_mode()
def _scores(model: ScalarModel, rows: Sequence[list[int]]) -> np.ndarray:
    result = np.zeros(len(rows))
    device = model.head.weight.device
    for group in batches([len(ids) for ids in rows], TOKENS):
        ids = padded([rows[i] for i in group], 0, device)
        real = padded([[1] * len(rows[i]) for i in group], 0, device)
        result[group] = last_token_scores(model(ids, real, position_ids(real)), real).double().cpu().numpy()
    return result


def answer_logprobs(model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
    """Summed log-prob [n] of each answer after its prompt."""
    return over_ranks(lambda rows: _answer_logprobs(model, rows), list(zip(prompts, answers, strict=True)))


@torch.no_grad()
def _answer_logprobs(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
    result = np.zeros(len(rows), np.float32)
    for group in batches([len(prompt) + len(answer) for prompt, answer in rows], _token_budget(model)):
        pairs = [rows[i] for i in group]
        ids = padded([prompt + answer for prompt, answer in pairs], 0, model.device)
        real = padded([[1] * len(prompt + answer) for prompt, answer in pairs], 0, model.device)
        response = padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0, model.device)
        logprobs, _ = policy_forward(model, ids, real, response, temperature=1.0, entropy=False)
        result[group] = logprobs.sum(1).cpu().numpy()
    return result


def preference(margins: np.ndarray) -> dict[str, Any]:
    """How often, with its 95 % interval, and by how much the chosen answers of pairs [n] come out above the others."""
    right, pairs = int((margins > 0).sum()), len(margins)
    return {"accuracy": right / pairs, "accuracy_interval": list(wilson_interval(right, pairs)),
            "margin": float(margins.mean())}


def preference_loss(margins: np.ndarray) -> float:
    """Mean −log σ(margin) over pairs [n] (Bradley-Terry)."""
    return float(np.logaddexp(0, -margins).mean())


def over_ranks(measure: Callable[[Sequence[Any]], np.ndarray], rows: Sequence[Any]) -> np.ndarray:
    """`measure(rows)` [n, …] with the rows shared out over the ranks: the whole result, in order, on every rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, measure(rows[rank::world]))
    whole = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
    for start, part in enumerate(parts):
        whole[start::world] = part
    return whole


def batches(lengths: Sequence[int], tokens: int) -> list[np.ndarray]:
    """Row numbers in groups of like length, each at most `tokens` when padded, or a single row."""
    groups: list[list[int]] = []
    for row in np.argsort(-np.asarray(lengths), kind="stable"):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= tokens:
            groups[-1].append(int(row))
        else:
            groups.append([int(row)])
    return [np.array(group) for group in groups]


def padded(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> torch.Tensor:
    """Rows as one tensor [B, T], right-padded with `fill`."""
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill).to(device)
