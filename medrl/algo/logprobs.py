"""Log-probabilities and entropy of the tempered next-token distribution, from logits.

The logits at position i predict token i + 1; both functions answer at the position of the token itself, so entry 0,
which nothing predicts, is 0. The vocabulary axis is worked through in chunks of positions, recomputed in the backward
pass: beside the logits and their gradient, memory holds the float32 copy of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medrl.algo.masking import at_least_float32

_CHUNK_ELEMENTS = 1 << 24  # 64 MiB of float32


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / τ) of the tokens that follow: [B, T, V], ids [B, T] → [B, T], at least float32.

    Entry i is log p(ids[i] | ids[:i]) (Ziegler 2019). top-p and top-k do not enter.
    """
    following = ids.roll(-1, dims=1)  # the last column is wrong, and dropped by the shift

    def chosen(chunk: Tensor, tokens: Tensor) -> Tensor:
        scaled = at_least_float32(chunk) / temperature
        return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)

    return _aligned(chosen, logits, following)


def token_entropy(logits: Tensor, temperature: float) -> Tensor:
    """−Σ_v p_v log p_v in nats of the distribution each token was drawn from: [B, T, V] → [B, T], at least float32.

    Schulman 2017, eq. 9 (the entropy bonus), of the same scaled logits as `token_logprobs`.
    """

    def entropy(chunk: Tensor) -> Tensor:
        logp = (at_least_float32(chunk) / temperature).log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    return _aligned(entropy, logits)


def _aligned(function: Callable[..., Tensor], logits: Tensor, *per_position: Tensor) -> Tensor:
    """`function` over chunks of positions, shifted by one so that the result stands at the token it speaks of."""
    b, t, v = logits.shape
    size = max(1, _CHUNK_ELEMENTS // v)
    flat = [x.reshape(b * t, *x.shape[2:]).split(size) for x in (logits, *per_position)]
    parts = [
        checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in zip(*flat, strict=True)
    ]
    predicted = torch.cat(parts).view(b, t)
    return torch.cat([torch.zeros_like(predicted[:, :1]), predicted[:, :-1]], dim=1)
