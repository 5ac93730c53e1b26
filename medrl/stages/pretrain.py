"""Continued pre-training: next-token prediction on packed text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from medrl.config.common import DataChecks
from medrl.config.supervised import PretrainConfig
from medrl.data.datasets import STRICT, read_texts
from medrl.data.tables import Rows, build_rows
from medrl.errors import ModelError
from medrl.workers.supervised import Job, checked_tokenizer, run_stage

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


def run_pretrain(config: PretrainConfig, resume: bool = False) -> dict[str, Any]:
    """Train on plain text and write `<run_dir>`: the model, report.json, config.yaml, metrics.jsonl.

    Returns the report. Raises DataError, ModelError or ConfigError before any worker starts, TrainingError when the
    loss is not finite, WorkerError when a worker dies.
    With `resume` the run goes on from its newest checkpoint; CheckpointError if that is of another config.
    """
    tokenizer = checked_tokenizer(config)
    files = {"train": config.data.train, "eval": config.data.eval}
    length = config.training.max_length
    rows = {name: text_rows(tokenizer, path, length, config.data) for name, path in files.items() if path}
    return run_stage("pretrain", config, _train, rows, resume)


def text_rows(
    tokenizer: PreTrainedTokenizerBase, path: str, max_length: int, checks: DataChecks = STRICT
) -> Rows:
    """Every document and an end token after it, as one stream cut into blocks of `max_length` tokens."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ModelError("the tokenizer has no end token to put between documents",
                         remedy="set eos_token in tokenizer_config.json")
    documents = tokenizer(read_texts(path, checks))["input_ids"]
    blocks = pack(documents, end, max_length)
    return build_rows([{"input_ids": block, "labels": block} for block in blocks], path, max_length)


def pack(documents: Iterable[list[int]], end: int, size: int) -> list[list[int]]:
    """Documents, each closed by `end`, joined and cut into blocks of `size`. The last block is shorter, or left out if
    it has a single token: there is nothing to predict in it."""
    stream: list[int] = []
    for ids in documents:
        stream += ids
        if ids[-1:] != [end]:
            stream.append(end)
    blocks = [stream[i:i + size] for i in range(0, len(stream), size)]
    return [block for block in blocks if len(block) > 1]


def _train(job: Job, tables: dict[str, pa.Table]) -> dict[str, Any]:
    """One training worker. The imports take seconds and are needed in workers only."""
    from trl import SFTConfig, SFTTrainer

    from medrl.models.loading import load_causal_lm
    from medrl.workers.evaluation import causal_figures, saved_causal
    from medrl.workers.training import build_model, fit, training_arguments

    arguments = SFTConfig(**training_arguments(job), dataset_kwargs={"skip_prepare_dataset": True})
    model = build_model(job, load_causal_lm, "causal")
    measure = partial(causal_figures, table=tables["eval"]) if "eval" in tables else None
    outcome = fit(job, model, tables["train"], SFTTrainer, arguments, measure)
    return outcome | (measure(saved_causal(job)) if measure else {})
