"""Merging an adapter into its base: in float32, cast last, and proved before it counts (R10, R11).

The model is never whole in memory: probes run one decoder layer at a time, the output is written shard by shard.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrl.config.common import DType, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import read_adapter, tied_ends
from medrl.lora.grafting import Graft
from medrl.lora.identity import MERGE_FILE, adapter_hash, check_base, model_hash, read_record
from medrl.lora.model_card import CARD_FILE, model_card
from medrl.lora.streaming import ModelWeights, Tensors, Units, empty_model, give_back_memory, streamed, units_of
from medrl.models.export import CALIBRATION_FILE, atomic_dir
from medrl.models.forward import policy_forward
from medrl.models.loading import TOKENIZER_FILES, load_tokenizer, local_dir
from medrl.models.shards import ShardWriter
from medrl.models.stored_weights import StoredWeights

FP32_BOUND = 1e-4  # largest change of a probe's log-prob or score by merging
BF16_BOUND = 0.05  # mean change by rounding the merged weights to bfloat16

_PREFIX = "base_model.model."  # of every key in an adapter file
SHARD_BYTES = 2**29  # of the output: what the merge holds in memory beside one layer
CARRIED_FILES = ("generation_config.json", "preprocessor_config.json", "processor_config.json")


def merge_adapter(adapter_dir: str, base_dir: str, out_dir: str, dtype: DType = "float32") -> dict[str, Any]:
    """Write base + adapter as a plain model directory `out_dir`; what was checked is returned, and goes to merge.json
    with the hashes of both.

    A causal LM stays one; a reward model's adapter gives an AutoModelForSequenceClassification directory, its
    calibration.json carried along. Tokenizer and chat template come from the adapter's directory if it has them, else
    from the base. Tied embeddings that the adapter touches are untied in the result.
    Raises ModelError (out_dir exists, base unusable) or AdapterError (another base, keys that do not fit, a merge that
    changes nothing or too much); then out_dir is not there.
    """
    adapter, base, torch_dtype = Path(adapter_dir), local_dir(base_dir), getattr(torch, dtype)
    with atomic_dir(out_dir) as work, torch.no_grad():
        tensors, config = read_adapter(adapter)
        tokenizer = load_tokenizer(_tokenizer_source(adapter, base_dir))
        scalar = _is_scalar(adapter, config)
        model = _structure(base, scalar)
        known_base = check_base(adapter, model, base_dir)
        weights = ModelWeights(model, StoredWeights(str(base), mapped=False))
        weights.check(brought=(key.removeprefix(_PREFIX) for key in tensors))
        untied = _untie_if_touched(model, tensors)
        graft, units = Graft(copy.deepcopy(model), adapter, tensors, config, weights), units_of(model)
        adapted = _probe(graft.model, units, graft.adapted, scalar)
        plain, merged = (_probe(model, units, fetch, scalar) for fetch in (graft.plain, graft.merged))
        report: dict[str, Any] = {"modules": len(graft.layers), "base_verified": known_base}
        report |= {"untied_embeddings": untied, "dtype": dtype} | _check_merge(plain, adapted, merged)
        digests = _write_weights(work, graft, untied, torch_dtype)
        _write_rest(work, model, tokenizer, torch_dtype)
        for source, files in ((base, () if scalar else CARRIED_FILES), (adapter, (CALIBRATION_FILE,))):
            for file in filter(Path.is_file, (source / name for name in files)):
                shutil.copy(file, work)
        report |= _check_saved(work, type(model), digests, adapted, scalar, dtype)
        (work / CARD_FILE).write_text(model_card(base_dir, adapter, config, report), encoding="utf-8")
        made_of = {"base_sha256": model_hash(base), "adapter_sha256": adapter_hash(adapter)}
        (work / MERGE_FILE).write_text(json.dumps(made_of | report, indent=2) + "\n", encoding="utf-8")
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


def _structure(path: Path, scalar: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if scalar:
        return empty_model(AutoModelForSequenceClassification, str(path), num_labels=1)
    return empty_model(AutoModelForCausalLM, str(path))


def _untie_if_touched(model: Any, tensors: Tensors) -> bool:
    """Say in the config that both ends have weights of their own, as in training, when the adapter changes either."""
    ends = tied_ends(model)
    if not any(key.startswith(tuple(f"{_PREFIX}{end}." for end in ends)) for key in tensors if ends):
        return False
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True


def _probe(model: Any, units: Units, fetch: Callable[[list[str]], Tensors], scalar: bool) -> Tensor:
    """Log-probs (or scores) of fixed random sequences, float32, with the tensors that `fetch` gives."""
    text = model.config.get_text_config()
    ids = torch.randint(text.vocab_size, (2, 32), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    with streamed(model, units, fetch):
        if not scalar:
            return policy_forward(model, ids, mask, mask, 1.0, entropy=False)[0][:, 1:]
        # One row at a time: a classifier looks for its last token by the pad id.
        scores = [model(input_ids=row[None], attention_mask=mask[:1], use_cache=False).logits for row in ids]
        return torch.cat([score.float().flatten() for score in scores])


def _check_merge(plain: Tensor, adapted: Tensor, merged: Tensor) -> dict[str, float]:
    gap, change = _largest(merged, adapted), _largest(merged, plain)
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


def _write_weights(work: Path, graft: Graft, untied: bool, dtype: torch.dtype) -> dict[str, str]:
    """Write every tensor under the base's own key, merged and cast; returns key → sha256 of what it should hold."""
    weights, writer, digests = graft.weights, ShardWriter(work, SHARD_BYTES), {}
    modules: dict[str, list[str]] = {}
    for name in weights.sources:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    brought = [name for name in graft.replaced if name not in weights.sources and name not in weights.aliases]
    for names in [*modules.values(), brought, list(weights.aliases) if untied else []]:
        for key, tensor in _under_keys(graft, names):
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            digests[key] = _digest(tensor)
            writer.add(key, tensor)
        give_back_memory()
    writer.close()
    return digests


def _under_keys(graft: Graft, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(key in the checkpoint, tensor) of one module's tensors."""
    weights, sources = graft.weights, {name: graft.weights.sources.get(name, [(name, None)]) for name in names}
    tensors = graft.merged([name for name in names if sources[name][0][1] is None])
    yield from ((sources[name][0][0], tensor) for name, tensor in tensors.items())
    for name in names:
        if name in tensors:
            continue
        made = weights.made_of(name)
        if graft.layers.keys().isdisjoint(made) and graft.replaced.keys().isdisjoint(made):
            yield from ((key, weights.stored[key]) for key, _ in sources[name])
        else:
            yield from weights.as_stored(name, graft.merged(made)).items()


def _write_rest(work: Path, model: Any, tokenizer: Any, dtype: torch.dtype) -> None:
    """Config, tokenizer and chat template."""
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype, config.use_cache, config._name_or_path = [type(model).__name__], dtype, True, ""
    config.save_pretrained(work)
    tokenizer.save_pretrained(work)


def _check_saved(
    work: Path, kind: type, digests: dict[str, str], adapted: Tensor, scalar: bool, dtype: DType
) -> dict[str, float]:
    """Read what was written: bit for bit the merged tensors, all that the class needs, by its outputs still the adapted
    model."""
    model, stored = _structure(work, scalar), StoredWeights(str(work), mapped=False)
    weights = ModelWeights(model, stored)
    wrong = sorted(digests.keys() ^ set(stored)) or [key for key in stored if _digest(stored[key]) != digests[key]]
    wrong += weights.missing + weights.unused + ([] if type(model) is kind else [type(model).__name__])
    if wrong:
        raise AdapterError("the saved model does not load back as it was merged", got=", ".join(wrong[:5]))
    gap = (_probe(model, units_of(model), weights.load, scalar) - adapted).abs()
    scale = max(1.0, adapted.abs().max().item()) if scalar else 1.0
    if dtype == "float32" and not gap.max() <= FP32_BOUND * scale or not gap.mean() <= BF16_BOUND * scale:
        raise AdapterError(
            f"the saved model differs from the adapted one by more than {dtype} explains",
            limit=f"largest {FP32_BOUND:g}" if dtype == "float32" else f"mean {BF16_BOUND:g}",
            got=f"largest {gap.max():g}, mean {gap.mean():g}",
            remedy="merge with dtype float32",
        )
    return {"saved_gap_max": gap.max().item(), "saved_gap_mean": gap.mean().item()}


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _tokenizer_source(adapter: Path, base_dir: str) -> ModelConfig:
    own = any((adapter / name).is_file() for name in TOKENIZER_FILES)
    return ModelConfig(path=str(adapter) if own else base_dir)
