"""What the audit keeps of an answer, and the hash that ties a record to the one before."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medrl.audit.key import AuditKey
from medrl.database import LABEL
from medrl.errors import AuditError

GENESIS = "0" * 64  # what the first record names as the hash of the one before
LARGEST = 2**63 - 1
# The request's settings that bear on how an answer is sampled; any other key of a request may be what a user typed.
SAMPLING = frozenset({
    "allowed_token_ids", "bad_words", "best_of", "echo", "frequency_penalty", "ignore_eos", "length_penalty",
    "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "min_p", "min_tokens", "n", "presence_penalty",
    "reasoning_effort", "repetition_penalty", "response_format", "seed", "stop", "stop_token_ids", "stream",
    "structured_outputs", "suffix", "temperature", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
    "truncate_prompt_tokens", "use_beam_search",
})


@dataclass(frozen=True)
class Answer:
    """One finished answer, as serving knows it. Its texts go no further than `sealed`."""

    request_id: str
    time: float  # seconds since 1970 UTC
    key_id: str
    model_version: str
    weight_checksum: str
    sampling: Mapping[str, Any] = field(repr=False)  # settings of the request; only those named in SAMPLING are kept
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    prompt: str = field(repr=False)
    answer: str = field(repr=False)
    choice: int = 0  # 0 … n - 1 of a request for n answers


@dataclass(frozen=True)
class AuditEntry:
    """What is kept of an answer: labels, numbers and digests, no text."""

    id: str
    request_id: str
    choice: int
    time_us: int  # microseconds since 1970 UTC
    key_id: str
    model_version: str
    weight_checksum: str
    sampling: str  # JSON
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    prompt_hmac: str
    answer_hmac: str

    def __post_init__(self) -> None:
        for name in ("id", "request_id", "key_id", "model_version", "weight_checksum", "finish_reason", "prompt_hmac",
                     "answer_hmac"):
            value = getattr(self, name)
            if not isinstance(value, str) or not LABEL.fullmatch(value):
                raise AuditError(f"an audit record's {name} must be a label", limit=f"text like {LABEL.pattern}")
        for name in ("choice", "time_us", "prompt_tokens", "completion_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value <= LARGEST:
                raise AuditError(f"an audit record's {name} must be a count", limit="an integer of 0 or more")


def sealed(answer: Answer, key: AuditKey) -> AuditEntry:
    """The entry of an answer. Raises AuditError for a label or count that is none, without its value."""
    return AuditEntry(
        id=uuid.uuid4().hex, request_id=answer.request_id, choice=answer.choice, time_us=round(answer.time * 1e6),
        key_id=answer.key_id, model_version=answer.model_version, weight_checksum=answer.weight_checksum,
        sampling=_sampling(answer.sampling, key), prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens, finish_reason=answer.finish_reason,
        prompt_hmac=key.digest("prompt", answer.prompt), answer_hmac=key.digest("answer", answer.answer))


def chained(entry: AuditEntry, seq: int, prev_hash: str) -> dict[str, Any]:
    """The entry as record number `seq`, 1 for the first, behind the record with hash `prev_hash`."""
    row = {"seq": seq, **asdict(entry), "prev_hash": prev_hash}
    return row | {"hash": record_hash(row)}


def record_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over every column but `hash`, in a canonical encoding; 64 hex digits."""
    return hashlib.sha256(b"medrl audit 1\n" + canonical({k: v for k, v in row.items() if k != "hash"})).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with one way to write each value. What JSON has no word for (a tampered cell) still gets an encoding."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr).encode()


def _sampling(settings: Mapping[str, Any], key: AuditKey) -> str:
    """Numbers and switches as they are; anything else may hold text, and only its digest is kept."""
    kept = {name: _plain_or_digest(value, key) for name, value in settings.items() if name in SAMPLING}
    return canonical(kept).decode()


def _plain_or_digest(value: Any, key: AuditKey) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST or isinstance(value, float) and math.isfinite(value):
        return value
    return "hmac:" + key.digest("sampling", canonical(value).decode())
