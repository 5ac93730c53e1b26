"""Direct preference optimisation: a policy from preference pairs, without a reward model or rollouts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrl.config.supervised import DpoConfig
from medrl.data.chat import check_tokenizer
from medrl.data.tables import pair_rows
from medrl.workers.supervised import Job, checked_tokenizer, run_stage

if TYPE_CHECKING:
    import pyarrow as pa

    from medrl.lora.reference import ReferenceSpec


def run_dpo(config: DpoConfig, resume: bool = False) -> dict[str, Any]:
    """Train on preference pairs and write `<run_dir>`: the model, report.json, config.yaml, metrics.jsonl.

    The reference is what training starts from: the base with a fresh adapter off, a named adapter, or in full
    fine-tuning the model before the first update. Returns the report, with accuracy and margin of the held-out pairs.
    Raises DataError, ModelError, ConfigError, or AdapterError for a reference that is none, before any worker starts;
    AdapterError when the first loss shows that the policy does not start at its reference, TrainingError when the loss
    is not finite, WorkerError when a worker dies.
    With `resume` the run goes on from its newest checkpoint; CheckpointError if that is of another config.
    """
    tokenizer = checked_tokenizer(config)
    check_tokenizer(tokenizer)
    reference = checked_reference(config)
    files = {"train": config.data.train, "eval": config.data.eval}
    length = config.training.max_length
    rows = {name: pair_rows(tokenizer, path, length, config.data) for name, path in files.items()}
    return run_stage("dpo", config, partial(_train, reference=reference), rows, resume)


def checked_reference(config: DpoConfig) -> ReferenceSpec:
    """What the policy is switched to for its reference. AdapterError for one that it would not start at (R9)."""
    from medrl.lora.reference import ReferenceSpec, check_explicit_reference

    reference = config.reference
    if reference is None:
        return ReferenceSpec("base")
    kind, path = ("adapter", reference.adapter) if reference.adapter else ("copy", reference.model)
    spec = ReferenceSpec(kind, str(Path(str(path)).absolute()))
    check_explicit_reference(config.model.path, None, spec)
    return ReferenceSpec("base") if kind == "copy" else spec  # a copy of the base gives the base's log-probs


def _train(job: Job, tables: dict[str, pa.Table], reference: ReferenceSpec) -> dict[str, Any]:
    """One training worker. The imports take seconds and are needed in workers only."""
    from trl import DPOConfig

    from medrl.models.device import pick_device
    from medrl.models.loading import load_causal_lm
    from medrl.stages.dpo_trainer import ExactDPOTrainer, first_loss, pair_figures, with_reference
    from medrl.workers.evaluation import saved_causal
    from medrl.workers.training import build_model, fit, training_arguments

    config = job.config
    assert isinstance(config, DpoConfig)
    arguments = DPOConfig(
        **training_arguments(job), beta=config.beta, loss_type=[config.loss], precompute_ref_log_probs=True,
        router_aux_loss_coef=0.0,  # it would be a part of the first loss
    )
    model = build_model(job, load_causal_lm, "causal").to(pick_device())
    tables = with_reference(model, reference, tables)
    measure = partial(pair_figures, config=config, table=tables["eval"])
    expected = first_loss(config, tables["train"])
    outcome = fit(job, model, tables["train"], ExactDPOTrainer, arguments, measure, expected)
    return outcome | measure(saved_causal(job))
