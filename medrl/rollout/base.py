"""What a generator is: prompts in, sampled answers of one known version of the weights out."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from medrl.config.common import ModelConfig
from medrl.config.evaluate import EvaluateConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rollout import SamplingConfig
from medrl.errors import ConfigError, DataError
from medrl.types import Channel, Completion, Prompt, SyncReport, Weights, WeightsNotice

if TYPE_CHECKING:
    import torch


GeneratorConfig = PpoConfig | EvaluateConfig  # what both have: model, rollout, max_model_len, seed


@dataclass(frozen=True)
class GenerateRequest:
    """One answer to sample. Example: `GenerateRequest(prompt, 0, request_seed(run_seed, step, prompt.id, 0))`."""

    prompt: Prompt
    sample: int  # 0 … samples_per_prompt - 1
    seed: int  # of this request alone, so that the answer does not depend on what it is batched with
    begun: tuple[int, ...] = ()  # the answer's tokens so far; the completion holds those that follow

    @property
    def ids(self) -> tuple[int, ...]:
        """What the engine goes on from."""
        return self.prompt.ids + self.begun


def request_seed(run_seed: int, step: int, prompt_id: str, sample: int) -> int:
    """63-bit seed of one request: the same in every process and after a resume."""
    key = json.dumps([run_seed, step, prompt_id, sample]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


class Generator(Protocol):
    """Samples answers. The caller need not know the engine, its batching, or how weights get into it."""

    @property
    def version(self) -> int | None:
        """Version of the weights it provably holds; None: STALE, it may not sample."""
        ...

    @property
    def engine_class(self) -> str:
        """Full name of the class that computes, for the run's record."""
        ...

    def generate(self, requests: Sequence[GenerateRequest], sampling: SamplingConfig, *,
                 greedy: bool = False) -> list[Completion]:
        """One completion a request, in the same order. Raises WeightSyncError while STALE."""
        ...

    def receive(self, weights: Weights) -> SyncReport:
        """Take over `weights`. Raises WeightSyncError, and stays STALE, unless they provably arrived."""
        ...

    def receive_stream(self, notice: WeightsNotice, connect: Callable[[], Channel]) -> SyncReport:
        """The same with full weights that come over the channel that `connect` waits for."""
        ...

    def forget(self) -> None:
        """STALE until the next `receive`, which may be of an older version than the last."""
        ...

    def rest(self) -> None:
        """Give back what memory it can until the next call. STALE afterwards if its weights are part of that."""
        ...

    def close(self) -> None:
        """Free the engine. The generator cannot be used afterwards."""
        ...


class WeightReceiver(Protocol):
    """Verifies, merges and proves weights for one engine (`medrl.weight_sync.receiver.Receiver`)."""

    @property
    def version(self) -> int | None: ...

    def require_fresh(self) -> int: ...

    def forget(self) -> None: ...

    def drop(self) -> None: ...

    def take_over(self, weights: Weights, engine: SyncedGenerator) -> SyncReport: ...

    def take_stream(
        self, notice: WeightsNotice, connect: Callable[[], Channel], engine: SyncedGenerator
    ) -> SyncReport: ...


class SyncedGenerator(ABC):
    """Everything but the engine: the version gate, the limits, and the making of completions."""

    def __init__(self, config: GeneratorConfig, stop_ids: Sequence[int], receiver: WeightReceiver) -> None:
        if not stop_ids:
            raise ConfigError("a generator needs at least one end-of-answer token",
                              remedy="give the tokenizer an eos_token")
        check_context(config.model, config.max_model_len)
        self.config = config
        self.stop_ids = tuple(stop_ids)
        self._receiver = receiver

    @property
    def version(self) -> int | None:
        return self._receiver.version

    def receive(self, weights: Weights) -> SyncReport:
        return self._receiver.take_over(weights, self)

    def receive_stream(self, notice: WeightsNotice, connect: Callable[[], Channel]) -> SyncReport:
        return self._receiver.take_stream(notice, connect, self)

    def forget(self) -> None:
        self._receiver.forget()

    def generate(self, requests: Sequence[GenerateRequest], sampling: SamplingConfig, *,
                 greedy: bool = False) -> list[Completion]:
        version = self._receiver.require_fresh()
        for request in requests:
            self._check_length(request, sampling)
        answers = self._sample(requests, sampling, greedy)
        return [Completion(request.prompt, request.sample, tuple(ids), tuple(logprobs),
                           "stop" if ids[-1] in self.stop_ids else "length", version)
                for request, (ids, logprobs) in zip(requests, answers, strict=True)]

    def _check_length(self, request: GenerateRequest, sampling: SamplingConfig) -> None:
        if len(request.ids) + sampling.max_tokens > self.config.max_model_len:
            raise DataError(f"prompt {request.prompt.id} leaves no room for its answer",
                            limit=f"at most {self.config.max_model_len} tokens, sampling.max_tokens "
                                  f"{sampling.max_tokens} included",
                            got=f"a prompt of {len(request.ids)} tokens",
                            remedy="raise rollout.max_model_len, or set data.too_long to drop or cut such prompts")

    @property
    @abstractmethod
    def engine_class(self) -> str: ...

    @abstractmethod
    def rest(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace the whole model by `tensors` (checkpoint names) and drop every cache computed with the old one."""

    @abstractmethod
    def sequence_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        """[n - 1] log p(ids[i + 1] | ids[:i + 1]) at temperature 1."""

    @abstractmethod
    def _sample(self, requests: Sequence[GenerateRequest], sampling: SamplingConfig,
                greedy: bool) -> list[tuple[list[int], list[float]]]:
        """(ids, log-probs) of each answer: ids up to and with the first stop id, at most `max_tokens`; log-probs of
        the distribution sampled from (temperature, then top-k and top-p applied)."""


def check_context(model: ModelConfig, max_model_len: int) -> None:
    """ConfigError when sequences would be longer than the model has positions for."""
    from transformers import AutoConfig  # takes seconds, and the controller imports this file too

    from medrl.models.loading import local_dir

    config = AutoConfig.from_pretrained(local_dir(model.path), trust_remote_code=model.trust_remote_code)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_model_len > positions:
        raise ConfigError("sequences would be longer than the model's context",
                          limit=f"max_position_embeddings {positions} of {model.path}", got=f"{max_model_len} tokens",
                          remedy="lower data.max_prompt_tokens, sampling.max_tokens or rollout.max_model_len")
