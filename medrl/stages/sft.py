"""Supervised fine-tuning on conversations; only what the assistant says is learned."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from medrl.config.common import SupervisedData
from medrl.config.supervised import SftConfig
from medrl.data.chat import check_tokenizer
from medrl.data.datasets import read_conversations
from medrl.data.lengths import Fitter
from medrl.data.tables import IGNORED, PLAIN, Rows, build_rows
from medrl.workers.supervised import Job, checked_tokenizer, run_stage

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


def run_sft(config: SftConfig, resume: bool = False) -> dict[str, Any]:
    """Train on conversations and write `<run_dir>`: the model, report.json, config.yaml, metrics.jsonl.

    Returns the report. Raises DataError, ModelError or ConfigError before any worker starts, TrainingError when the
    loss is not finite, WorkerError when a worker dies.
    With `resume` the run goes on from its newest checkpoint; CheckpointError if that is of another config.
    """
    tokenizer = checked_tokenizer(config)
    check_tokenizer(tokenizer)
    files = {"train": config.data.train, "eval": config.data.eval}
    length = config.training.max_length
    rows = {name: conversation_rows(tokenizer, path, length, config.data) for name, path in files.items() if path}
    return run_stage("sft", config, _train, rows, resume)


def conversation_rows(
    tokenizer: PreTrainedTokenizerBase, path: str, max_length: int, data: SupervisedData = PLAIN
) -> Rows:
    """One row a conversation; labels are the ids of assistant tokens, and -100 elsewhere."""
    rows, fitter = [], Fitter(tokenizer, max_length, data.too_long)
    for conversation in read_conversations(path, data):
        ids, mask = fitter.conversation(conversation)
        labels = [token if learned else IGNORED for token, learned in zip(ids, mask, strict=True)]
        rows.append({"input_ids": ids, "labels": labels})
    return build_rows(rows, path, max_length, fitter.cut)


def _train(job: Job, tables: dict[str, pa.Table]) -> dict[str, Any]:
    """One training worker. The imports take seconds and are needed in workers only."""
    from trl import SFTConfig, SFTTrainer

    from medrl.models.loading import load_causal_lm, load_tokenizer
    from medrl.stages.packing import check_packing, packed_table
    from medrl.workers.evaluation import causal_figures, saved_causal
    from medrl.workers.training import build_model, fit, training_arguments

    config, train = job.config, tables["train"]
    assert isinstance(config, SftConfig)
    arguments = SFTConfig(
        **training_arguments(job), dataset_kwargs={"skip_prepare_dataset": True},
        neftune_noise_alpha=config.training.neftune_alpha, padding_free=config.training.packing,
    )
    model = build_model(job, load_causal_lm, "causal")
    if config.training.packing:
        check_packing(model, load_tokenizer(config.model), train, config.model.dtype)
        train = packed_table(train, config.training.max_length)
    measure = partial(causal_figures, table=tables["eval"]) if "eval" in tables else None
    outcome = fit(job, model, train, SFTTrainer, arguments, measure)
    return outcome | (measure(saved_causal(job)) if measure else {})
