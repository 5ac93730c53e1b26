"""The reward model: a scalar for a whole answer, trained so that chosen answers score above rejected ones."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from medrl.config.common import ModelConfig, SupervisedData
from medrl.config.supervised import RewardConfig
from medrl.data.chat import check_tokenizer
from medrl.data.datasets import read_conversations
from medrl.data.lengths import Fitter
from medrl.data.tables import PLAIN, Rows, build_rows, pair_rows
from medrl.errors import TrainingError
from medrl.workers.supervised import Job, checked_tokenizer, run_stage

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run_reward(config: RewardConfig, resume: bool = False) -> dict[str, Any]:
    """Train on preference pairs and write `<run_dir>`: the model, report.json, config.yaml, metrics.jsonl.

    The model directory also gets calibration.json: mean and deviation of its scores of SFT answers. Returns the
    report. Raises DataError, ModelError or ConfigError before any worker starts, TrainingError when the loss is not
    finite or all answers score the same, WorkerError when a worker dies.
    With `resume` the run goes on from its newest checkpoint; CheckpointError if that is of another config.
    """
    tokenizer = checked_tokenizer(config)
    check_tokenizer(tokenizer)
    data, max_length = config.data, config.training.max_length
    files = {"train": data.train, "eval": data.eval}
    rows = {name: pair_rows(tokenizer, path, max_length, data) for name, path in files.items()}
    if data.calibration:
        rows["calibration"] = answer_rows(tokenizer, data.calibration, max_length, data)
    return run_stage("reward", config, _train, rows, resume)


def answer_rows(
    tokenizer: PreTrainedTokenizerBase, path: str, max_length: int, data: SupervisedData = PLAIN
) -> Rows:
    """One row a conversation: all of it up to the last answer, which the reward model scores."""
    fitter = Fitter(tokenizer, max_length, data.too_long)
    rows = []
    for conversation in read_conversations(path, data):
        *context, answer = conversation.messages
        prompt, (reply,) = fitter.answers(context, (answer["content"],))
        rows.append({"input_ids": prompt + reply})
    return build_rows(rows, path, max_length, fitter.cut)


def _train(job: Job, tables: dict[str, pa.Table]) -> dict[str, Any]:
    """One training worker. The imports take seconds and are needed in workers only."""
    from trl import RewardConfig as TrlRewardConfig
    from trl import RewardTrainer

    from medrl.workers.training import build_model, fit, training_arguments

    arguments = TrlRewardConfig(**training_arguments(job))
    model = build_model(job, _load_classifier, "scalar")
    outcome = fit(job, model, tables["train"], RewardTrainer, arguments, partial(_held_out, table=tables["eval"]))
    return outcome | _measure(job, tables)


def _held_out(model: Any, table: pa.Table) -> dict[str, Any]:
    """Figures of the classifier in training."""
    from medrl.workers.evaluation import classifier_scores, preference, preference_loss

    margins = classifier_scores(model, table["chosen_ids"]) - classifier_scores(model, table["rejected_ids"])
    return preference(margins) | {"eval_loss": preference_loss(margins)}


def _load_classifier(model: ModelConfig) -> PreTrainedModel:
    """A sequence classifier with one label, its head new if the checkpoint has none."""
    from transformers import AutoModelForSequenceClassification

    from medrl.models.loading import load_pretrained

    return load_pretrained(AutoModelForSequenceClassification, model, may_miss=("score.weight",), num_labels=1)


def _measure(job: Job, tables: dict[str, pa.Table]) -> dict[str, Any]:
    """Score the held-out pairs and the SFT answers with the model that was saved; write its calibration."""
    import torch.distributed as dist

    from medrl.models.export import save_calibration
    from medrl.workers.evaluation import preference, preference_loss, score_answers

    pairs, answers = tables["eval"], tables.get("calibration")
    columns = [pairs["chosen_ids"], pairs["rejected_ids"], *([answers["input_ids"]] if answers else [])]
    chosen, rejected, *rest = score_answers(job, columns)
    reference = rest[0] if rest else chosen
    mean, std, margins = float(reference.mean()), float(reference.std()), chosen - rejected
    if not std > 0:
        raise TrainingError("the reward model gives every answer the same score", limit="scores that differ",
                            got=f"{len(reference)} answers, deviation {std}",
                            remedy="train longer, or give more calibration answers")
    if dist.get_rank() == 0:
        for folder in (job.model, job.adapter) if job.config.lora else (job.model,):
            save_calibration(folder, mean, std)
        _set_pad_token(job)
    return preference(margins) | {
        "eval_loss": preference_loss(margins), "chosen_mean": float(chosen.mean()),
        "rejected_mean": float(rejected.mean()), "calibration_mean": mean, "calibration_std": std,
    }


def _set_pad_token(job: Job) -> None:
    """Give the saved config the tokenizer's pad token: by it transformers' classifiers find the token to score."""
    from medrl.models.loading import load_tokenizer

    file = job.model / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values.get("text_config", values)["pad_token_id"] = load_tokenizer(job.config.model).pad_token_id
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
