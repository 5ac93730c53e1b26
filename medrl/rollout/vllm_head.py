"""What vLLM's reload of weights leaves undone."""

from __future__ import annotations

from torch import nn


def repack_head(model: nn.Module) -> None:
    """Pack the CPU engine's copy of the head's weights again, inside the engine's worker after each reload.

    A head tied to the embeddings is no tensor of its own in a checkpoint, so the reload passes it by: it sees the new
    embeddings, but the packed copy of them is the old one until it is packed again.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and isinstance(module.quant_method, UnquantizedEmbeddingMethod):
            module.quant_method.process_weights_after_loading(module)
