"""A generator on plain transformers: slow, short enough to be read, and the oracle for the fast one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from medrl.config.rollout import SamplingConfig
from medrl.errors import WeightSyncError
from medrl.models.device import pick_device
from medrl.models.loading import load_causal_lm
from medrl.rollout.base import GenerateRequest, GeneratorConfig, SyncedGenerator, WeightReceiver


class HfGenerator(SyncedGenerator):
    """One request at a time with a key-value cache: no padding, so no answer depends on its neighbours."""

    def __init__(self, config: GeneratorConfig, stop_ids: Sequence[int], receiver: WeightReceiver) -> None:
        super().__init__(config, stop_ids, receiver)
        self._device = pick_device()
        model = load_causal_lm(config.model.model_copy(update={"dtype": config.rollout.dtype}))
        self._model = model.to(self._device)  # pyright: ignore[reportArgumentType]

    @property
    def engine_class(self) -> str:
        return f"{type(self._model).__module__}.{type(self._model).__qualname__}"

    def rest(self) -> None:
        """It keeps its memory: this engine is for debugging."""

    def close(self) -> None:
        del self._model

    @torch.no_grad()
    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        own = self._model.state_dict()
        loaded = set()
        for name, tensor in tensors:
            if name not in own:
                raise WeightSyncError(f"{type(self._model).__name__} has no parameter {name}",
                                      remedy="use a checkpoint whose names are those of its transformers class")
            own[name].copy_(tensor)
            loaded.add(own[name].data_ptr())  # tied parameters share their memory
        missing = [name for name, tensor in own.items() if tensor.data_ptr() not in loaded]
        if missing:
            raise WeightSyncError("the checkpoint does not hold the whole model",
                                  got=f"nothing for {', '.join(missing[:5])}")

    @torch.inference_mode()
    def sequence_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        sequence = torch.tensor([ids], device=self._device)
        logprobs = self._model(input_ids=sequence).logits[0, :-1].float().log_softmax(-1)
        return logprobs.gather(-1, sequence[0, 1:, None])[:, 0].tolist()

    def _sample(self, requests: Sequence[GenerateRequest], sampling: SamplingConfig,
                greedy: bool) -> list[tuple[list[int], list[float]]]:
        return [self._sample_one(request, sampling, greedy) for request in requests]

    @torch.inference_mode()
    def _sample_one(self, request: GenerateRequest, sampling: SamplingConfig,
                    greedy: bool) -> tuple[list[int], list[float]]:
        rng = torch.Generator(self._device).manual_seed(request.seed)
        step, cache = torch.tensor([request.ids], device=self._device), None
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < sampling.max_tokens:
            output = self._model(input_ids=step, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[0, -1].float()
            scores = (logits if greedy else _truncate(logits / sampling.temperature, sampling)).log_softmax(-1)
            token = scores.argmax() if greedy else torch.multinomial(scores.exp(), 1, generator=rng)[0]
            ids.append(int(token))
            logprobs.append(float(scores[token]))
            if ids[-1] in self.stop_ids:
                break
            step = token.reshape(1, 1)
        return ids, logprobs


def _truncate(logits: torch.Tensor, sampling: SamplingConfig) -> torch.Tensor:
    """[V] logits, -inf outside the `top_k` likeliest tokens and outside the smallest set that holds mass `top_p`."""
    if sampling.top_k > 0:
        kth = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, index = logits.sort(descending=True)
        probs = ordered.softmax(-1)
        outside = probs.cumsum(-1) - probs >= sampling.top_p  # the mass before a token is enough already
        logits = logits.index_fill(0, index[outside], -torch.inf)
    return logits
