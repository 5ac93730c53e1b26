"""The least work a step must do, in FLOPs and bytes, and the least time that takes on a machine of known rates.

After Williams et al. 2009, "Roofline"; the counts of a transformer as in Kaplan et al. 2020, section 2.1, and Pope et
al. 2022, "Efficiently Scaling Transformer Inference". A multiplication and its addition are 2 FLOPs. What is not a
matrix product (norms, activations, softmax, rotary embeddings) is not counted: these are lower bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Read gradient, two moments and weight, write gradient, both moments and weight: 7 float32 a step, in AdamW.
OPTIMIZER_BYTES = 28


@dataclass(frozen=True)
class ModelSize:
    """What the counts need to know of a decoder. Example: Llama-2-7B is `ModelSize(6_476_005_376, 32, 4096, 4096,
    4096, 32_000)`.
    """

    products: int  # N: weights of the matrix products in the layers; of a mixture those of the experts a token visits
    layers: int  # L
    attention: int  # d: query heads · head_dim
    keys: int  # key-value heads · head_dim
    hidden: int
    vocabulary: int  # V

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocabulary


@dataclass(frozen=True)
class Work:
    """What one phase must do at least."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Rates:
    """What a device was measured to do per second. Example: `Rates(flops=7e10, bytes=2e10)`."""

    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """The slower of arithmetic and memory: they can overlap, but not beat either."""
        return max(work.flops / self.flops, work.bytes / self.bytes)


def forward_flops(model: ModelSize, lengths: Sequence[int], head_positions: int) -> float:
    """2·N·S + 4·L·d·Σ len²/2 + 2·hidden·V·head_positions for sequences of `lengths` tokens, S in all.

    Causal attention looks at half of each len × len square. The head is needed only where logits are used.
    """
    layers = 2 * model.products * sum(lengths)
    attention = 4 * model.layers * model.attention * sum(n * n for n in lengths) / 2
    return layers + attention + 2 * model.head * head_positions


def training_flops(
    model: ModelSize, lengths: Sequence[int], head_positions: int, *, adapter: int = 0, checkpointing: bool = False
) -> float:
    """One forward and backward pass: 3 × forward, or with LoRA 2 × forward + 6·adapter·S.

    `adapter`: weights of the adapters; 0 is full training. Under LoRA the base takes no weight gradients, while those
    of its activations flow on; attention, which has no weights, keeps its 3 × forward. With gradient checkpointing one
    more forward pass of the layers (the head is not recomputed).
    """
    layers, tokens = forward_flops(model, lengths, 0), sum(lengths)
    head = forward_flops(model, (), head_positions)
    products = 2 * model.products * tokens
    low_rank = 2 * adapter * tokens
    if adapter:
        total = 3 * (layers + low_rank) - products + 2 * head
    else:
        total = 3 * (layers + head)
    return total + (layers + low_rank if checkpointing else 0)


def prefill_work(model: ModelSize, prompts: Sequence[int], weight_bytes: int) -> Work:
    """Reading prompts of these lengths, and the logits that choose each answer's first token."""
    return Work(forward_flops(model, prompts, len(prompts)), (model.products + model.head) * weight_bytes)


def decode_work(
    model: ModelSize, prompts: Sequence[int], answers: Sequence[int], weight_bytes: int, cache_bytes: int
) -> Work:
    """Every token after an answer's first, all sequences side by side, each leaving the batch when it ends.

    A decoding step reads all weights once and every running sequence's keys and values: per cached token 2·L·keys. The
    step that writes answer token t (t = 1 … answer − 1) attends to prompt + t tokens. `weight_bytes`, `cache_bytes`: of
    one weight and of one cached number.
    """
    steps = max(answers, default=1) - 1
    tokens = sum(n - 1 for n in answers)
    seen = sum((n - 1) * p + n * (n - 1) // 2 for p, n in zip(prompts, answers, strict=True))
    flops = 2 * (model.products + model.head) * tokens + 4 * model.layers * model.attention * seen
    cache = 2 * model.layers * model.keys * seen * cache_bytes
    return Work(flops, steps * (model.products + model.head) * weight_bytes + cache)


def optimizer_work(trained: int) -> Work:
    """One AdamW step over `trained` parameters."""
    return Work(bytes=OPTIMIZER_BYTES * trained)


def step_bound(phases: Mapping[str, tuple[str, Work]], rates: Mapping[str, Rates]) -> float:
    """Seconds a step takes at least: phases (name → device, work) of one device after another, devices side by side."""
    seconds: dict[str, float] = {}
    for device, work in phases.values():
        seconds[device] = seconds.get(device, 0.0) + rates[device].seconds(work)
    return max(seconds.values(), default=0.0)
