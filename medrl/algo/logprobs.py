"""Log-probabilities and entropy of the tempered next-token distribution, from logits, in one pass.

Positions are worked through in blocks that stay in a CPU's cache. Beside the logits and their gradient, memory holds
the float32 copy of one block; the backward pass is written out, so nothing of the size of the logits is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medrl.algo.masking import at_least_float32

_BLOCK_ELEMENTS = {"cpu": 1 << 18}  # 1 MiB of float32
_LARGE_BLOCK = 1 << 24  # 64 MiB: elsewhere each kernel costs a launch


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / τ) of the tokens drawn from them: [N, V], tokens [N] → [N], at least float32.

    Ziegler 2019. top-p and top-k do not enter.
    """
    return _Chosen.apply(logits, tokens, temperature, False)[0]


def token_stats(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and −Σ_v p_v log p_v in nats of the same distributions: [N, V] → [N], [N].

    Schulman 2017, eq. 9 (the entropy bonus).
    """
    return _Chosen.apply(logits, tokens, temperature, True)


class _Chosen(torch.autograd.Function):
    """(log p of the chosen tokens, entropies or zeros).

    With z = logits / τ, log p_v = z_v − logsumexp(z) and H = −Σ p·log p:
    ∂ log p_c / ∂z_v = [v = c] − p_v and ∂H / ∂z_v = −p_v · (log p_v + H).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(logits[:0]).dtype
        logprobs, entropies, normalizers = torch.zeros((3, len(logits)), dtype=dtype, device=logits.device)
        for rows in _blocks(logits):
            scaled = _scaled(logits[rows], temperature)
            largest = scaled.amax(-1, keepdim=True)
            shifted = scaled - largest
            chosen = shifted.gather(-1, tokens[rows, None]).squeeze(-1)
            weights = shifted.exp()
            total = weights.sum(-1)
            log_total = total.log()
            logprobs[rows] = chosen - log_total
            normalizers[rows] = largest.squeeze(-1) + log_total
            if entropy:
                entropies[rows] = log_total - weights.mul_(shifted).sum(-1) / total
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, tokens, normalizers, entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_logprobs: Tensor | None, of_entropies: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        logits, tokens, normalizers, entropies = ctx.saved_tensors
        of_chosen = torch.zeros_like(normalizers) if of_logprobs is None else of_logprobs / ctx.temperature
        result = torch.empty_like(logits)
        for rows in _blocks(logits):
            logp = _scaled(logits[rows], ctx.temperature) - normalizers[rows, None]
            chosen, p = of_chosen[rows, None], logp.exp()
            if of_entropies is None:
                p.mul_(-chosen)
            else:
                slope = of_entropies[rows, None] / ctx.temperature
                p.mul_(logp.add_(entropies[rows, None]).mul_(slope).add_(chosen).neg_())
            result[rows] = p.scatter_add_(-1, tokens[rows, None], chosen)
        return result, None, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    logits = at_least_float32(logits)
    return logits if temperature == 1 else logits / temperature


def _blocks(logits: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK_ELEMENTS.get(logits.device.type, _LARGE_BLOCK) // logits.shape[-1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
