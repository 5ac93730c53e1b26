"""Merging an adapter into its base: in float32, cast last, and proved before it counts (R10, R11)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from medrl.config.common import DType, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import load_adapter_, read_adapter, tied_ends
from medrl.lora.identity import check_base, read_record
from medrl.lora.wrap import ADAPTER, base_names
from medrl.models.export import CALIBRATION_FILE, atomic_dir, write_model
from medrl.models.forward import policy_forward
from medrl.models.loading import TOKENIZER_FILES, load_causal_lm, load_pretrained, load_tokenizer

FP32_BOUND = 1e-4  # largest change of a probe's log-prob or score by merging
BF16_BOUND = 0.05  # mean change by rounding the merged weights to bfloat16


REPORT_FILE = "merge.json"


def merge_adapter(adapter_dir: str, base_dir: str, out_dir: str, dtype: DType = "float32") -> dict[str, Any]:
    """Write base + adapter as a plain model directory `out_dir`; what was checked goes to merge.json and is returned.

    A causal LM stays one; a reward model's adapter gives an AutoModelForSequenceClassification directory, its
    calibration.json carried along. Tokenizer and chat template come from the adapter's directory if it has them, else
    from the base. Tied embeddings that the adapter touches are untied in the result.
    Raises ModelError (out_dir exists, base unusable) or AdapterError (another base, keys that do not fit, a merge that
    changes nothing or too much); then out_dir is not there.
    """
    adapter = Path(adapter_dir)
    with atomic_dir(out_dir) as work:
        tensors, config = read_adapter(adapter)
        tokenizer = load_tokenizer(_tokenizer_source(adapter, base_dir))
        scalar = _is_scalar(adapter, config)
        model = _load_base(base_dir, scalar, tensors)
        known_base = check_base(adapter, model, base_dir)
        before = _probe(model, scalar)
        untied = _untie_if_touched(model, tensors)
        wrapped = peft.PeftModel.from_pretrained(model, str(adapter), adapter_name=ADAPTER)
        wrapped.peft_config[ADAPTER].base_model_name_or_path = base_dir
        load_adapter_(wrapped, adapter)  # strict, where PEFT only warns
        adapted, modules = _probe(wrapped, scalar), len(base_names(wrapped, peft.tuners.lora.LoraLayer))
        merged = wrapped.merge_and_unload()
        report = _check_merge(before, adapted, _probe(merged, scalar))
        merged.config._name_or_path = ""
        merged.to(getattr(torch, dtype)).config.dtype = getattr(torch, dtype)
        write_model(merged, tokenizer, work)
        if (adapter / CALIBRATION_FILE).is_file():
            shutil.copy(adapter / CALIBRATION_FILE, work)
        report |= _check_saved(work, merged, adapted, scalar, dtype)
        facts = {"modules": modules, "base_verified": known_base, "untied_embeddings": untied, "dtype": dtype}
        report = facts | report
        (work / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _is_scalar(adapter: Path, config: dict) -> bool:
    record = read_record(adapter)
    kind = record["base_class"] if record else ""
    if kind == "ScalarModel":
        raise AdapterError(
            f"the adapter in {adapter} belongs to a critic",
            limit="an adapter of a language or reward model",
            remedy="merge the policy's adapter",
        )
    return config.get("task_type") == "SEQ_CLS"


def _load_base(base_dir: str, scalar: bool, tensors: dict[str, Tensor]) -> nn.Module:
    """The base in float32; parameters it lacks (a reward model's head) must be among the adapter's."""
    source = ModelConfig(path=base_dir, dtype="float32")
    if not scalar:
        return load_causal_lm(source)
    from transformers import AutoModelForSequenceClassification

    brought = tuple(key.removeprefix("base_model.model.") for key in tensors)
    return load_pretrained(AutoModelForSequenceClassification, source, may_miss=brought, num_labels=1)


def _untie_if_touched(model: Any, tensors: dict[str, Tensor]) -> bool:
    """Give the output embedding its own copy when the adapter changes one of two tied ends, as it did in training."""
    ends = tied_ends(model)
    if not any(key.startswith(tuple(f"base_model.model.{end}." for end in ends)) for key in tensors if ends):
        return False
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True


@torch.no_grad()
def _probe(model: Any, scalar: bool) -> Tensor:
    """Log-probs (or scores) of fixed random sequences, float32."""
    model.eval()
    text = model.config.get_text_config()
    ids = torch.randint(text.vocab_size, (2, 32), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    if scalar:
        # One row at a time: a classifier looks for its last token by the pad id.
        return torch.cat([model(input_ids=row[None], attention_mask=mask[:1]).logits.float().flatten() for row in ids])
    return policy_forward(model, ids, mask, mask, 1.0, entropy=False)[0][:, 1:]


def _check_merge(before: Tensor, adapted: Tensor, merged: Tensor) -> dict[str, float]:
    gap, change = _largest(merged, adapted), _largest(merged, before)
    if not gap <= FP32_BOUND:
        raise AdapterError(
            "the merged model is not the base with the adapter on",
            limit=f"largest change {FP32_BOUND:g}",
            got=f"{gap:g}",
        )
    if change == 0:
        raise AdapterError(
            "the merged model is the base: the adapter changes nothing",
            limit="a trained adapter",
            remedy="check that this is the adapter of a finished run",
        )
    return {"merge_gap": gap, "change_from_base": change}


def _check_saved(work: Path, merged: nn.Module, adapted: Tensor, scalar: bool, dtype: DType) -> dict[str, float]:
    """Load what was written: bit for bit the merged weights, and by its outputs still the adapted model."""
    saved = _load_base(str(work), scalar, {}).to(getattr(torch, dtype)).state_dict()
    expected = merged.state_dict()
    wrong = sorted(saved.keys() ^ expected.keys()) or [k for k, v in expected.items() if not torch.equal(saved[k], v)]
    if wrong:
        raise AdapterError("the saved model does not load back as it was merged", got=", ".join(wrong[:5]))
    gap = (_probe(merged.float(), scalar) - adapted).abs()
    scale = max(1.0, adapted.abs().max().item()) if scalar else 1.0
    if dtype == "float32" and not gap.max() <= FP32_BOUND * scale or not gap.mean() <= BF16_BOUND * scale:
        raise AdapterError(
            f"the saved model differs from the adapted one by more than {dtype} explains",
            limit=f"largest {FP32_BOUND:g}" if dtype == "float32" else f"mean {BF16_BOUND:g}",
            got=f"largest {gap.max():g}, mean {gap.mean():g}",
            remedy="merge with dtype float32",
        )
    return {"saved_gap_max": gap.max().item(), "saved_gap_mean": gap.mean().item()}


def _largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _tokenizer_source(adapter: Path, base_dir: str) -> ModelConfig:
    own = any((adapter / name).is_file() for name in TOKENIZER_FILES)
    return ModelConfig(path=str(adapter) if own else base_dir)
