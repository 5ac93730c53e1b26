"""Config of the engines that generate answers, and of how answers are sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medrl.config.base import StrictModel
from medrl.config.common import DType


class SamplingConfig(StrictModel):
    """How answers are sampled."""

    max_tokens: int = Field(default=128, ge=1, description="limit on an answer")
    temperature: float = Field(
        default=1.0, gt=0, description="sampling temperature; the learner's log-probs are scaled by it too"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="nucleus mass; below 1 engine and learner log-probs are not comparable"
    )
    top_k: int = Field(default=-1, ge=-1, description="keep the k likeliest tokens; -1: all")

    @model_validator(mode="after")
    def _top_k(self):
        if self.top_k == 0:
            raise ValueError("top_k must be -1 (all) or at least 1, got 0")
        return self


class EngineConfig(StrictModel):
    """Engines that generate answers, one a worker."""

    engine: Literal["vllm", "hf"] = Field(
        default="vllm", description="vllm, or plain transformers generation (slow; for debugging)"
    )
    workers: int = Field(default=1, ge=1, description="engines")
    dtype: DType = Field(default="bfloat16", description="dtype the engine samples in")
    kv_cache_gib: float = Field(default=1.0, gt=0, description="CPU: GiB for the KV cache of one engine")
    gpu_memory_utilization: float = Field(
        default=0.5, gt=0, le=1, description="GPU: share of the memory one engine may take"
    )
    enforce_eager: bool | None = Field(default=None, description="no compilation; null: true on CPU, false on GPU")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs reserved for each engine")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="GPUs reserved for each engine")
    threads_per_worker: int | None = Field(
        default=None, ge=1, description="threads an engine; null: its share of the machine"
    )


class RolloutConfig(EngineConfig):
    """The pool of rollout engines."""

    max_workers: int | None = Field(
        default=None, ge=1,
        description="engines that may join while the run goes on, as soon as the cluster has room; `workers` start it. "
        "null: as many as `workers`",
    )
    max_model_len: int | None = Field(
        default=None, ge=8, description="longest prompt + answer; null: data.max_prompt_tokens + sampling.max_tokens"
    )
    max_staleness: int = Field(
        default=0,
        ge=0,
        description="updates that the weights which sample may be behind. 0: on-policy, engines and learners take "
        "turns; k: engines sample the answers of the next k steps while the learners train (needs "
        "algorithm.importance)",
    )
    at_sync: Literal["finish", "continue"] = Field(
        default="finish",
        description="max_staleness k from 2 on: answers are finished before engines take over newer weights, or go on "
        "by these after every sampling.max_tokens / k tokens",
    )
    probe_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest probe log-prob gap after a sync; null: 1e-3 in float32, 0.15 in bfloat16",
    )
    weight_transfer: Literal["object_store", "nccl"] = Field(
        default="object_store",
        description="how weights reach the engines: through Ray's object store, or (full fine-tuning, "
        "learner and engines on whole GPUs) from GPU to GPU",
    )
    sleep_level: Literal[0, 1, 2] = Field(
        default=0,
        description="engines that share GPUs with learners: what they free while these train. 0: nothing; 1: cache and "
        "weights, which wait in the CPU's memory; 2: the same, but the weights come back with the next sync",
    )

    @model_validator(mode="after")
    def _elastic(self):
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers must be at least workers {self.workers}, got {self.max_workers}")
        return self

    @model_validator(mode="after")
    def _continues(self):
        if self.at_sync == "continue" and self.max_staleness < 2:
            raise ValueError(
                f"at_sync continue cuts answers into max_staleness parts, got max_staleness {self.max_staleness}: set "
                "it to 2 or more, or at_sync to finish"
            )
        return self

    @model_validator(mode="after")
    def _sleeps(self):
        if self.sleep_level and (self.engine != "vllm" or not self.gpus_per_worker):
            raise ValueError(
                f"sleep_level {self.sleep_level} needs engine vllm on a GPU, got engine {self.engine} with "
                f"gpus_per_worker {self.gpus_per_worker:g}: set it to 0"
            )
        if self.sleep_level and self.max_staleness:
            raise ValueError(
                f"sleep_level {self.sleep_level} frees engines while learners train, which is when max_staleness "
                f"{self.max_staleness} has them sample: set one of the two to 0"
            )
        return self
