"""Config of the rewards of PPO: where scores come from, and what is made of them."""

from __future__ import annotations

from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, model_validator

from medrl.config.base import StrictModel
from medrl.config.common import DType


class HttpConfig(StrictModel):
    """How a remote scorer is asked (protocol: docs/rewards.md)."""

    api_key_env: str | None = Field(
        default=None, description="environment variable of the reward workers that holds the bearer token; null: none"
    )
    batch_size: int = Field(default=32, ge=1, description="answers in a request")
    concurrency: int = Field(default=4, ge=1, description="requests in flight from one worker")
    timeout: float = Field(default=60.0, gt=0, description="seconds to connect, and to wait for an answer")
    attempts: int = Field(
        default=8, ge=1, description="tries of a request that meets a lost connection, a timeout, HTTP 429 or 5xx"
    )
    max_wait: float = Field(
        default=30.0, ge=0, description="seconds between two tries at most; a Retry-After beyond it is a failure"
    )
    breaker_failures: int = Field(
        default=1, ge=1, description="so many requests failed for good, one after another, open the circuit breaker"
    )
    breaker_seconds: float = Field(
        default=60.0, gt=0, description="how long the open breaker lets every request fail at once"
    )


class RewardSource(StrictModel):
    """One scorer: a reward model directory, a Python function or a remote scorer."""

    name: str = Field(min_length=1, description="name in the metrics")
    model: str | None = Field(default=None, description="reward model directory (sequence classification, one label)")
    function: str | None = Field(
        default=None, description="module:function(messages: list, answers: list[str]) -> list[float]"
    )
    url: str | None = Field(default=None, description="http(s) address of a remote scorer (docs/rewards.md)")
    weight: float = Field(default=1.0, description="factor in the sum of scores")
    dtype: DType = Field(default="float32", description="dtype of the reward model")
    http: HttpConfig = Field(default=HttpConfig(), description="read with `url` only")

    @property
    def kind(self) -> Literal["model", "function", "url"]:
        return "model" if self.model is not None else "function" if self.function is not None else "url"

    @model_validator(mode="after")
    def _one_kind(self):
        if sum(given is not None for given in (self.model, self.function, self.url)) != 1:
            raise ValueError(f"reward source {self.name!r} needs exactly one of `model`, `function` and `url`")
        if self.function is not None and ":" not in self.function:
            raise ValueError(
                f"reward source {self.name!r}: function must look like module:function, got {self.function!r}"
            )
        if self.url is not None:
            self._check_url(urlsplit(self.url))
        return self

    def _check_url(self, url: SplitResult) -> None:
        """Never repeats the address: what is wrong with it may be a secret inside."""
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise ValueError(f"reward source {self.name!r}: url must look like https://host/score")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                f"reward source {self.name!r}: url must have no user, password, query or fragment (configs are copied "
                "into every run); name the environment variable of a token in http.api_key_env"
            )


class RewardPoolConfig(StrictModel):
    """The pool of stateless scoring workers."""

    sources: list[RewardSource] = Field(min_length=1, description="scorers, summed with their weights")
    workers: int = Field(default=1, ge=1, description="scoring workers")
    micro_batch_size: int = Field(default=32, ge=1, description="answers per forward pass")
    max_length: int = Field(
        default=1024, ge=8, description="limit on prompt + answer in the reward model's tokens; longer is an error"
    )
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs reserved for each worker")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="GPUs reserved for each worker")
    threads_per_worker: int | None = Field(
        default=None, ge=1, description="torch threads a worker; null: its share of the machine"
    )

    @model_validator(mode="after")
    def _names(self):
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"reward.sources have the same name twice: {', '.join(names)}")
        return self


class RewardShaping(StrictModel):
    """From raw scores to shaped scores, in this order."""

    calibrate: bool = Field(
        default=True,
        description="use the reward model's own calibration (SFT answers to mean 0, deviation 1) when it has one",
    )
    clip: float | None = Field(default=5.0, gt=0, description="clip scores to ± this; null: off")
    missing_eos_penalty: float = Field(default=1.0, ge=0, description="subtracted from an answer cut by max_tokens")
    length_penalty: float = Field(
        default=0.0, ge=0, description="subtracted for each response token beyond `length_allowed`"
    )
    length_allowed: int = Field(default=0, ge=0, description="response tokens without a penalty")
    repetition_penalty: float = Field(
        default=0.0, ge=0, description="subtracted times the share of an answer's 4-token sequences that it said before"
    )
