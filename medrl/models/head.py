"""The output head at some positions only, and never with the logits of all of them at once.

A chunk of hidden states goes through the head, what the model does to the head's output, and the function that is
wanted of the logits; the backward pass makes the chunk's logits again. The head is called as a module each time, so
that LoRA on it, whole copies of it and DeepSpeed's partitioned parameters work as in the model's own forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

logger = logging.getLogger(__name__)

CHUNK_ELEMENTS = 1 << 24  # logits that exist at a time: 64 MiB of float32
# Names in the configs of: Cohere; Granite (divides), HyperCLOVA X (multiplies); Falcon H1; Muse Glimmer.
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma from 2 on, NanoChat; RecurrentGemma

Finish = Callable[[Tensor], Tensor]
"""From the head's output to the model's logits."""
_found: WeakKeyDictionary[Any, Finish | None] = WeakKeyDictionary()

OfLogits = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Logits [n, V] and the tokens they predict [n] → results [n]."""


def over_logits(
    model: Any, inputs: dict[str, Any], positions: Tensor, tokens: Tensor, function: OfLogits
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """`function` of the logits at `positions` [B, T], which predict `tokens` [N]: results [N], in row-major order.

    Beside them the hidden states [B, T, d] that the head reads; None if the model does not call it as a module.
    `model` as in `policy_forward`, `inputs` what it is called with. In chunks of some `CHUNK_ELEMENTS` logits where the
    model does nothing to its logits that is not known here; whole otherwise, and where they are no more than that.
    """
    head = inner_model(model).get_output_embeddings()
    count = _chunks(model, head, len(tokens))
    if count > 1 and (finish := logits_finish(model)):
        with head_input(head, lambda hidden: hidden.flatten(0, -2)[:1]) as seen:
            model(**inputs)

        def results(hidden: Tensor, drawn: Tensor) -> tuple[Tensor, ...]:
            return function(finish(head(hidden)), drawn)

        parts = zip(seen[0][positions].tensor_split(count), tokens.tensor_split(count), strict=True)
        if torch.is_grad_enabled():
            # ZeRO 3 empties a frozen weight after each pass and fills it again before its backward: nothing to compare.
            made = [checkpoint(results, *part, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
                    for part in parts]
        else:
            made = [results(*part) for part in parts]
        return tuple(torch.cat(columns) for columns in zip(*made, strict=True)), seen[0]
    with head_input(head, lambda hidden: hidden[positions]) as seen:
        logits = model(**inputs).logits
    if logits.ndim == 3:  # this model does not call its output head as a module
        logits = logits[positions]
    return function(logits, tokens), seen[0] if seen else None


@torch.no_grad()
def logits_finish(model: Any) -> Finish | None:
    """What the model does to its head's output, if that gives its own logits of two tokens to the bit; else None.

    Found out once a model, by a forward pass: collective where DeepSpeed partitions parameters.
    """
    inner = inner_model(model)
    if inner not in _found:
        outputs: list[Tensor] = []
        ids = torch.arange(2, device=next(inner.parameters()).device)[None]
        watch = inner.get_output_embeddings().register_forward_hook(lambda _head, _args, out: outputs.append(out))
        try:
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=ids, use_cache=False).logits
        finally:
            watch.remove()
        known = _finishes(_text_config(model)) if len(outputs) == 1 else ()
        _found[inner] = next((f for f in known if torch.equal(f(outputs[0]).float(), logits.float())), None)
        if _found[inner] is None:
            logger.warning(
                "%s does something to its logits that is not known here: those of a micro-batch are kept whole; "
                "if memory runs out, lower learner.micro_batch_size", type(inner).__name__)
    return _found[inner]


def _finishes(config: Any) -> Iterator[Finish]:
    """What transformers' models do: a scale, a soft cap, both or neither, by what stands in the config."""
    values = {name: getattr(config, name, None) for name in (*_SCALES, *_CAPS)}
    caps = [values[name] for name in _CAPS if values[name]]
    scales = [values[name] for name in _SCALES if values[name]]
    for cap in (*caps, None):
        for scale, operation in (*product(scales, (torch.mul, torch.div)), (None, torch.mul)):

            def finish(logits: Tensor, cap=cap, scale=scale, operation=operation) -> Tensor:
                logits = logits if scale is None else operation(logits, scale)
                return logits if cap is None else torch.tanh(logits / cap) * cap

            yield finish


@contextmanager
def head_input(head: Any, select: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """In this block the head works on a selection of the hidden states that the model gives it; yields those, whole."""
    seen: list[Tensor] = []

    def replace(_head: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(arguments[0])
        return (select(arguments[0]), *arguments[1:])

    hook = head.register_forward_pre_hook(replace)
    try:
        yield seen
    finally:
        hook.remove()


def _chunks(model: Any, head: Any, positions: int) -> int:
    """How many chunks: as many on all ranks where calling the head is a collective, since ZeRO 3 partitions it."""
    count = max(1, -(-positions * _text_config(model).vocab_size // CHUNK_ELEMENTS))
    if not any(hasattr(parameter, "ds_id") for parameter in head.parameters()):
        return count
    most = torch.tensor(count, device=next(head.parameters()).device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def inner_model(model: Any) -> Any:
    """The model itself, without the DeepSpeed engine it may be in."""
    return model.module if hasattr(model, "module") else model


def _text_config(model: Any) -> Any:
    return inner_model(model).config.get_text_config()
