"""Direct preference optimisation: a policy from preference pairs, without a reward model or rollouts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from medrl.config.common import SupervisedData
from medrl.config.supervised import DpoConfig
from medrl.data.chat import check_tokenizer
from medrl.data.datasets import read_pairs
from medrl.data.lengths import Fitter
from medrl.workers.supervised import PLAIN, Job, Rows, build_rows, checked_tokenizer, run_stage

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


def run_dpo(config: DpoConfig) -> dict[str, Any]:
    """Train on preference pairs and write `<run_dir>`: the model, report.json, config.yaml, metrics.jsonl.

    The reference is the model it starts from: with LoRA the base with the adapter off. Returns the report, with
    accuracy and margin of the held-out pairs. Raises DataError, ModelError or ConfigError before any worker starts,
    AdapterError when the first loss shows that the policy does not start at its reference, TrainingError when the
    loss is not finite, WorkerError when a worker dies.
    """
    tokenizer = checked_tokenizer(config)
    check_tokenizer(tokenizer)
    files = {"train": config.data.train, "eval": config.data.eval}
    length = config.training.max_length
    rows = {name: pair_rows(tokenizer, path, length, config.data) for name, path in files.items()}
    return run_stage("dpo", config, _train, rows)


def pair_rows(tokenizer: PreTrainedTokenizerBase, path: str, max_length: int, data: SupervisedData = PLAIN) -> Rows:
    """One row a pair: the prompt, and the prompt with each of the answers."""
    fitter = Fitter(tokenizer, max_length, data.too_long)
    rows = []
    for pair in read_pairs(path, data):
        prompt, (chosen, rejected) = fitter.answers(pair.messages, (pair.chosen, pair.rejected))
        rows.append({"prompt_ids": prompt, "chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected})
    return build_rows(rows, path, max_length, fitter.cut)


def _train(job: Job, tables: dict[str, pa.Table]) -> dict[str, Any]:
    """One training worker. The imports take seconds and are needed in workers only."""
    from trl import DPOConfig

    from medrl.lora.reference import ReferenceSpec
    from medrl.models.loading import load_causal_lm
    from medrl.stages.dpo_trainer import ExactDPOTrainer, first_loss
    from medrl.workers.training import fit, training_arguments

    config = job.config
    assert isinstance(config, DpoConfig)
    arguments = DPOConfig(
        **training_arguments(job), beta=config.beta, loss_type=[config.loss], precompute_ref_log_probs=True,
        disable_dropout=True,
    )
    trainer = partial(ExactDPOTrainer, reference=ReferenceSpec("base") if config.lora else None)
    outcome = fit(
        job, tables["train"], trainer, arguments, load_causal_lm, "causal",
        first_loss=first_loss(config.loss, config.beta),
    )
    return outcome | _measure(job, tables["eval"])


def _measure(job: Job, table: pa.Table) -> dict[str, float]:
    """How often, and by how much, the trained policy prefers the chosen answers more than its reference does."""
    from medrl.models.device import pick_device
    from medrl.models.loading import load_causal_lm
    from medrl.stages.dpo_trainer import answer_logprobs
    from medrl.workers.evaluation import over_ranks

    config = job.config
    assert isinstance(config, DpoConfig)
    prompts = table["prompt_ids"].to_pylist()
    margins = 0.0
    for sign, path in ((1, str(job.model)), (-1, config.model.path)):
        model = load_causal_lm(config.model.model_copy(update={"path": path})).eval()
        model.to(pick_device())  # pyright: ignore[reportArgumentType]
        for side_sign, side in ((1, "chosen_ids"), (-1, "rejected_ids")):
            rows = [(p, ids[len(p):]) for p, ids in zip(prompts, table[side].to_pylist(), strict=True)]
            margins = margins + sign * side_sign * over_ranks(lambda share: answer_logprobs(model, share), rows)  # noqa: B023
    margins = config.beta * margins
    return {"accuracy": float((margins > 0).mean()), "margin": float(margins.mean())}
