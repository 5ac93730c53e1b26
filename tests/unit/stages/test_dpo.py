"""DPO's reference (R9) and its measure, in one process, against transformers and PEFT alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import peft
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from medrl.config.base import build_config
from medrl.config.common import LoraConfig
from medrl.config.supervised import DpoConfig
from medrl.data.tables import pair_rows
from medrl.errors import AdapterError, ConfigError
from medrl.lora.adapter import save_adapter
from medrl.lora.reference import ReferenceSpec
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm, load_tokenizer
from medrl.stages.dpo import _train, checked_reference
from medrl.stages.dpo_trainer import ExactDPOTrainer, first_loss, with_reference
from medrl.workers.supervised import Job
from medrl.workers.training import build_model, fit, training_arguments
from tests.tiny import save_policy

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("one_rank")]
LORA = {"rank": 4, "alpha": 8.0}
START = ["", "Rest. ", "Rest. Rest. "]


@pytest.fixture(scope="module")
def sft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of `base` that moves its log-probs."""
    model = wrap(load_causal_lm(config(base).model), LoraConfig(**LORA))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    save_adapter(model, path := tmp_path_factory.mktemp("sft") / "adapter")
    return path


def config(base: Path, folder: Path = Path("/run"), **sections) -> DpoConfig:
    values = {"name": "dpo", "output_dir": str(folder), "model": {"path": str(base)},
              "data": {"train": "a", "eval": "b"}, "scaling": {"threads_per_worker": 1},
              "training": {"batch_size": 8, "micro_batch_size": 2, "max_length": 128, "lr": 1e-2, "epochs": 2.0}}
    return build_config(DpoConfig, values | sections)


@pytest.fixture(scope="module")
def tables(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """The better answer says "see a doctor", whatever comes before it."""
    folder, tokenizer = tmp_path_factory.mktemp("pairs"), load_tokenizer(config(base).model)
    found = {}
    for name, count in {"train": 24, "eval": 6}.items():
        rows = [{"prompt": f"What now, {name} {i}?", "chosen": f"{START[i % 3]}See a doctor.",
                 "rejected": f"{START[i % 3]}Never mind."} for i in range(count)]
        (folder / name).with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = pair_rows(tokenizer, str(folder / f"{name}.jsonl"), 128).table
    return found


def margins(model, table: pa.Table) -> np.ndarray:
    """log p(chosen) − log p(rejected) of each pair, one unpadded row at a time, in float64."""
    found = []
    for row in table.to_pylist():
        sums, start = [], len(row["prompt_ids"])
        for side in ("chosen_ids", "rejected_ids"):
            ids = torch.tensor([row[side]])
            with torch.no_grad():
                logprobs = model(ids).logits[0].double().log_softmax(-1)
            sums.append(sum(logprobs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])))
        found.append(sums[0] - sums[1])
    return np.array(found)


@pytest.mark.parametrize(("kind", "loss"), [
    ("base", "sigmoid"), ("adapter", "sigmoid"), ("start", "sigmoid"), ("adapter", "ipo"), ("start", "hinge")])
def test_every_reference_is_where_the_policy_starts(base, sft, tables, tmp_path, kind: str, loss: str) -> None:
    spec = ReferenceSpec("adapter", str(sft)) if kind == "adapter" else ReferenceSpec("base")
    job = Job("dpo", config(base, tmp_path, lora=None if kind == "start" else LORA, loss=loss), tmp_path)
    outcome = _train(job, tables, spec)
    expected = {"sigmoid": math.log(2), "ipo": 25.0, "hinge": 1.0}[loss]
    assert outcome["loss_first"] == pytest.approx(expected, rel=1e-6) and outcome["loss_last"] < expected - 0.01

    reference = AutoModelForCausalLM.from_pretrained(base)
    if kind == "adapter":
        reference = peft.PeftModel.from_pretrained(reference, str(sft))
    trained = AutoModelForCausalLM.from_pretrained(job.model)
    gains = 0.1 * (margins(trained, tables["eval"]) - margins(reference, tables["eval"]))
    assert outcome["margin"] == pytest.approx(gains.mean(), abs=1e-5) and gains.mean() > 0.1
    assert outcome["accuracy"] == (gains > 0).mean() == 1.0
    low, high = outcome["accuracy_interval"]
    assert low == pytest.approx(6 / (6 + 1.96**2), abs=1e-3) and high == 1.0  # Wilson's, 6 of 6
    assert job.adapter.exists() == (kind != "start")
    if kind != "start":
        assert "ref" not in {path.name for path in job.adapter.iterdir()}  # nothing of TRL's second adapter


def test_a_policy_away_from_its_reference_is_stopped_at_the_first_step(base, tables, tmp_path) -> None:
    from trl import DPOConfig

    job = Job("dpo", config(base, tmp_path, lora=LORA), tmp_path)
    arguments = DPOConfig(**training_arguments(job), precompute_ref_log_probs=True)
    model = build_model(job, load_causal_lm, "causal")
    table = with_reference(model, ReferenceSpec("base"), tables)["train"]
    column = table.schema.get_field_index("ref_chosen_logps")
    moved = pa.array(table["ref_chosen_logps"].to_numpy() + np.float32(1e-3))
    with pytest.raises(AdapterError, match="does not start at its reference") as error:
        fit(job, model, table.set_column(column, "ref_chosen_logps", moved), ExactDPOTrainer, arguments,
            first_loss=first_loss(job.config, table))
    assert error.value.limit.startswith("a first loss of 0.693147") and not job.model.exists()


def test_an_explicit_reference_has_to_be_the_base_or_an_adapter_of_it(base, sft, tmp_path) -> None:
    other = save_policy(tmp_path / "other", seed=1)
    copy = save_policy(tmp_path / "copy")
    for lora in (LORA, None):
        with pytest.raises(AdapterError, match="another model than the adapter's base"):
            checked_reference(config(base, lora=lora, reference={"model": str(other)}))
        assert checked_reference(config(base, lora=lora, reference={"model": str(copy)})) == ReferenceSpec("base")
    named = config(base, lora=LORA, reference={"adapter": str(sft)})
    assert checked_reference(named) == ReferenceSpec("adapter", str(sft))
    with pytest.raises(AdapterError, match="was not made for"):
        checked_reference(config(other, lora=LORA, reference={"adapter": str(sft)}))


@pytest.mark.parametrize(("sections", "why"), [
    ({"lora": LORA | {"dropout": 0.1}}, "lora.dropout must be 0 in DPO"),
    ({"lora": LORA | {"bias": "all"}}, "change the base"),
    ({"lora": LORA | {"init": "pissa"}}, "change the base"),
    ({"reference": {"adapter": "x"}}, "reference.adapter needs lora"),
    ({"reference": {"adapter": "x", "model": "y"}, "lora": LORA}, "exactly one of"),
    ({"training": {"zero_stage": 3}}, "zero_stage 3"),
])
def test_what_makes_the_reference_another_model_is_refused_at_once(sections: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config(Path("m"), **sections)
