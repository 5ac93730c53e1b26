"""What crosses a process boundary: frozen dataclasses with their shapes checked on construction.

Arrays are NumPy, not torch: Ray's object store maps NumPy arrays into every worker of a node without a copy.
Axes: B sequences, T = prompt + response tokens. Sequences are right-padded. Every per-token number stands at the
position of the token it belongs to (`logprobs[b, i]` is log p(ids[b, i] | ids[b, :i])) and is 0 where
`response_mask` is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

Message = dict[str, str]  # {"role": "user", "content": "…"}


@dataclass(frozen=True)
class Prompt:
    """One conversation that waits for an answer: `Prompt("p17", ({"role": "user", "content": "hi"},), (5, 9))`.

    `id` is stable over runs (a hash of the messages), so that request seeds derived from it are too.
    """

    id: str
    messages: tuple[Message, ...]
    ids: tuple[int, ...]  # token ids of the templated conversation, the assistant header included

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError(f"prompt {self.id} has no tokens")


@dataclass(frozen=True)
class Conversation:
    """A conversation whose last turn is the assistant's: what SFT learns from."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()  # descriptions (JSON schema) of the tools the assistant may call


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one conversation, `chosen` better than `rejected`."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with options, one of them right."""

    messages: tuple[Message, ...]
    options: tuple[str, ...]
    answer: int  # index of the right one


@dataclass(frozen=True)
class ReferenceQuestion:
    """A question with answers to compare with."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class SafetyCase:
    """A prompt whose answer must keep the safety rules named."""

    messages: tuple[Message, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Completion:
    """One sampled answer. `ids` includes the end-of-answer token when `finish` is "stop"."""

    prompt: Prompt
    sample: int  # 0 … samples_per_prompt - 1
    ids: tuple[int, ...]  # [R], R ≥ 1
    logprobs: tuple[float, ...]  # [R], the engine's, of the tempered distribution
    finish: Literal["stop", "length"]
    version: int  # policy version that sampled it; the first, where several did

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.logprobs):
            raise ValueError(
                f"completion of prompt {self.prompt.id}: {len(self.ids)} tokens, {len(self.logprobs)} log-probs"
            )


def _check_shapes(batch: object, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        array = getattr(batch, name)
        if array.shape != shape:
            raise ValueError(f"{type(batch).__name__}.{name} has shape {array.shape}, expected {shape}")


@dataclass(frozen=True)
class RolloutBatch:
    """Prompts and answers as arrays, right-padded to the longest sequence."""

    ids: np.ndarray  # [B, T] int64
    attention_mask: np.ndarray  # [B, T] bool, 1 on real tokens
    response_mask: np.ndarray  # [B, T] bool, 1 on generated tokens, the end-of-answer token included
    engine_logprobs: np.ndarray  # [B, T] float32, the rollout engine's
    ended: np.ndarray  # [B] bool, the answer has its end token (was not cut by max_tokens)

    def __post_init__(self) -> None:
        b, t = self.ids.shape
        _check_shapes(
            self, {"attention_mask": (b, t), "response_mask": (b, t), "engine_logprobs": (b, t), "ended": (b,)}
        )
        if (self.response_mask & ~self.attention_mask).any():
            raise ValueError("response_mask is set on padding")

    @property
    def lengths(self) -> np.ndarray:
        """[B] response tokens of each answer."""
        return self.response_mask.sum(1)

    def rows(self, index: np.ndarray) -> RolloutBatch:
        """The rows `index`, trimmed to the longest of them."""
        return _take_rows(self, index)


@dataclass(frozen=True)
class Experience(RolloutBatch):
    """A rollout batch plus everything one PPO update needs. All per-token arrays are [B, T] float32."""

    logprobs: np.ndarray  # the learner's, before the first update
    ref_logprobs: np.ndarray
    values: np.ndarray  # V at the state before the token; zeros in critic-free runs
    rewards: np.ndarray  # per-token: −β·kl_t, plus the shaped score at the last response token
    advantages: np.ndarray
    returns: np.ndarray
    importance: np.ndarray  # detached weights w_t (ones when no correction is configured)
    scores: np.ndarray  # [B] shaped scores
    raw_scores: np.ndarray  # [B] as the scorers gave them

    def __post_init__(self) -> None:
        super().__post_init__()
        b, t = self.ids.shape
        per_token = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "importance")
        _check_shapes(self, {name: (b, t) for name in per_token} | {"scores": (b,), "raw_scores": (b,)})

    def rows(self, index: np.ndarray) -> Experience:
        return _take_rows(self, index)


def _take_rows(batch, index):
    width = int(batch.attention_mask[index].sum(1).max()) if len(index) else 1
    taken = {f.name: getattr(batch, f.name)[index] for f in fields(batch)}
    return type(batch)(**{k: (v[:, :width] if v.ndim == 2 else v) for k, v in taken.items()})


@dataclass(frozen=True)
class Probe:
    """A fixed sequence whose log-probs prove which weights an engine holds."""

    ids: tuple[int, ...]  # [n]
    logprobs: tuple[float, ...]  # [n - 1], log p(ids[i + 1] | ids[:i + 1]) by the learner, temperature 1


@dataclass(frozen=True)
class Weights:
    """One version of the policy's weights on its way to the rollout engines.

    kind "adapter": `tensors` holds `<module>.lora_A.weight` [r, in], `<module>.lora_B.weight` [out, r] (float32), with
    `<module>` the full name in the base model, and `scaling[<module>]` = s of W = W₀ + s·B·A;
    `<module>.weight` entries are whole replacement tensors (modules_to_save).
    kind "full": every `<name>` of the model's state dict.
    """

    version: int
    kind: Literal["adapter", "full"]
    tensors: dict[str, torch.Tensor]
    scaling: dict[str, float]
    fingerprint: str  # sha256 over names, shapes, dtypes and bytes
    probe: Probe


@dataclass(frozen=True)
class WeightsNotice:
    """Full weights that come as a stream: all of `Weights` but the bytes."""

    version: int
    layout: dict[str, tuple[tuple[int, ...], torch.dtype]]  # name → shape and dtype, in the order of the stream
    fingerprint: str
    probe: Probe


class Channel(Protocol):
    """Two ends, the sender's and the receiver's. Both say what they move, in the same order: it carries bytes only."""

    @property
    def device(self) -> torch.device:
        """Where the tensors it moves have to be."""
        ...

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Put the sender's bytes into the receiver's contiguous `tensor`; they are there on return.

        Raises WorkerLost when the other end is gone or this one was closed.
        """
        ...

    def close(self) -> None:
        """Free this end, from any thread: a `broadcast` that waits gives up. May be called again."""
        ...


@dataclass(frozen=True)
class SyncReport:
    """What one generator says after taking over weights."""

    version: int
    fingerprint: str  # computed by the receiver from the tensors that arrived
    probe_gap: float  # max |log-prob engine − learner| over the probe
    seconds: float
    bytes: int


@dataclass(frozen=True)
class ScoreRequest:
    """One answer to be scored, as text: a reward model may have another tokenizer than the policy."""

    messages: tuple[Message, ...]
    answer: str
    ended: bool  # False: cut by max_tokens, scored without a closing token


@dataclass(frozen=True)
class Scores:
    """[B] total scores and the parts they were summed from."""

    total: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)
