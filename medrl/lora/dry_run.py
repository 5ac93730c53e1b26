"""A forward and a backward pass of a model cut to one decoder layer of each kind, with random weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError, ModelError
from medrl.lora.families import decoder_stack, text_config
from medrl.lora.resolve import Task, skeleton
from medrl.lora.wrap import wrap

VOCABULARY = 128  # rows of the embeddings: their number changes nothing in which tensors get a gradient


def dry_run(config: Any, lora: LoraConfig | None, task: Task = "causal", trust_remote_code: bool = False) -> int:
    """Number of trainable tensors in the cut model, each of which got a gradient, and nothing else did.

    The model is built and wrapped whole on the meta device, so that layer numbers mean what they mean in training;
    then one layer of each kind is kept, and its widths are the real ones. Text only: a vision tower is never run.
    Raises AdapterError that names the trainable tensors without a gradient, ModelError when the cut model does not run.
    """
    model = skeleton(_small_vocabulary(config), task, trust_remote_code)
    stack = decoder_stack(model)
    if lora is not None:
        with torch.device("meta"):
            model = wrap(model, lora, task=task)
    base: Any = model.get_base_model() if lora is not None else model  # pyright: ignore[reportCallIssue]
    _keep_one_layer_of_each_kind(base, stack)
    _materialise(base, stack)
    ids = torch.randint(3, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    except Exception as error:  # any model may rely on something that the cut took away
        raise ModelError(
            f"{type(base).__name__} does not run when it is cut to one layer of each kind",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            remedy="leave the dry run out; train one step on a small batch instead",
        ) from error
    return _check_gradients(model)


def _small_vocabulary(config: Any) -> Any:
    config = copy.deepcopy(config)
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        part.pad_token_id = 0
        for name in ("vocab_size", "vocab_size_per_layer_input"):
            if hasattr(part, name):
                setattr(part, name, VOCABULARY)
    return config


def _keep_one_layer_of_each_kind(model: nn.Module, stack: str) -> None:
    """Layers are of one kind when their parameters have equal names, shapes and flags, and their types are equal."""
    text, layers = text_config(model), list(model.get_submodule(stack).children())
    types = list(getattr(text, "layer_types", None) or [None] * len(layers))
    kinds: dict[tuple, int] = {}
    for i, layer in enumerate(layers):
        shapes = tuple((n, tuple(p.shape), p.requires_grad) for n, p in layer.named_parameters())
        kinds.setdefault((types[i], shapes), i)
    kept = list(kinds.values())
    parent, _, name = stack.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers[i] for i in kept))
    if types[0] is not None:
        # Some models read a layer's type from the config by its place; the list keeps its length.
        text.layer_types = [types[i] for i in kept] + types[len(kept) :]


def _materialise(model: nn.Module, stack: str) -> None:
    """Random float32 numbers for what is on the meta device, but for the layers of towers beside the decoder."""
    trunk = f"{stack.rpartition('.')[0]}." if "." in stack else ""
    towers = tuple(
        f"{name}." for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and not name.startswith(trunk)
    )
    generator = torch.Generator().manual_seed(0)
    real: dict[int, tuple[Any, Any]] = {}  # by id, so that tied parameters stay tied; holds the old ones alive
    for name, module in model.named_modules():
        if name.startswith(towers):
            continue
        for own, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for key, old in own.items():
                if old is None or not old.is_meta:
                    continue
                if id(old) not in real:
                    new = _random(old, generator)
                    real[id(old)] = (old, nn.Parameter(new, old.requires_grad) if is_parameter else new)
                own[key] = real[id(old)][1]


def _random(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Whole numbers 1; scales, biases and frequencies from 1/2 to 1; matrices that keep the size of their input."""
    if not like.is_floating_point():
        return torch.ones(like.shape, dtype=like.dtype)
    if like.ndim < 2:
        return torch.rand(like.shape, generator=generator) / 2 + 0.5
    return torch.randn(like.shape, generator=generator) / like.shape[-1] ** 0.5


def _check_gradients(model: nn.Module) -> int:
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, p in trainable if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()]
    if without:
        raise AdapterError(
            "trainable tensors get no gradient from text",
            limit=f"a gradient on each of {len(trainable)} trainable tensors",
            got=", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else ""),
            remedy="take them out of lora.targets and lora.modules_to_save",
        )
    return len(trainable)
