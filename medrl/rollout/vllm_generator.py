"""A generator on a vLLM engine in this process. vLLM itself picks the platform (CPU, CUDA …).

Threads are this process's own: with the engine in-process vLLM neither pins cores nor counts them, so several engines
share a machine without piling onto the same ones. Before torch is imported, give the process OMP_NUM_THREADS, and
OMP_WAIT_POLICY=PASSIVE: threads that spin while they wait slow an engine tenfold where processes share cores.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from medrl.config.rollout import RolloutConfig, SamplingConfig
from medrl.errors import MedrlError, ModelError, WeightSyncError, WorkerError
from medrl.models.loading import local_dir
from medrl.rollout.base import GenerateRequest, GeneratorConfig, SyncedGenerator, WeightReceiver
from medrl.rollout.vllm_head import repack_head
from medrl.setup.choices import choose_eager

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams

logger = logging.getLogger(__name__)

GIB = 2**30
BATCHED_TOKENS = 4096  # in one forward pass of the CPU engine


class VllmGenerator(SyncedGenerator):
    """Token ids in, token ids out: the engine has no tokenizer, and stops at our stop ids only."""

    def __init__(self, config: GeneratorConfig, stop_ids: Sequence[int], receiver: WeightReceiver) -> None:
        super().__init__(config, stop_ids, receiver)
        self._llm = start_engine(config)
        self._sleep_level = sleep_level(config)
        self._asleep = False

    @property
    def engine_class(self) -> str:
        engine = type(self._llm.llm_engine)
        return f"{engine.__module__}.{engine.__qualname__}"

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def rest(self) -> None:
        """vLLM frees its cache, and at `rollout.sleep_level` 1 moves the weights to the CPU, at 2 drops them."""
        if not self._sleep_level or self._asleep:
            return
        if self._sleep_level == 2:
            self._receiver.drop()
        self._llm.sleep(level=self._sleep_level)
        self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._wake()
        # Not `model.load_weights`: the CPU engine has packed its weights, and only a reload packs them again.
        self._llm.collective_rpc(_reload, args=(tensors,))
        if not self._llm.reset_prefix_cache():  # its keys and values are the old weights'
            raise WeightSyncError("the engine did not drop its prefix cache", remedy="sync while nothing is generated")

    def sequence_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        entries = self._run([ids], [params])[0].prompt_logprobs
        return _pick(entries[1:], ids[1:])

    def _sample(self, requests: Sequence[GenerateRequest], sampling: SamplingConfig,
                greedy: bool) -> list[tuple[list[int], list[float]]]:
        params = [self._params(request, sampling, greedy) for request in requests]
        answers = [output.outputs[0] for output in self._run([request.ids for request in requests], params)]
        return [(list(answer.token_ids), _pick(answer.logprobs, answer.token_ids)) for answer in answers]

    def _params(self, request: GenerateRequest, sampling: SamplingConfig, greedy: bool) -> SamplingParams:
        from vllm import SamplingParams

        # ignore_eos: the stop ids are ours, not the ones vLLM would find in the model's config.
        common: dict[str, Any] = {"max_tokens": sampling.max_tokens, "stop_token_ids": list(self.stop_ids),
                                  "ignore_eos": True, "logprobs": 0, "detokenize": False}
        if greedy:
            return SamplingParams(temperature=0, **common)
        return SamplingParams(temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k,
                              seed=request.seed, **common)

    def _run(self, prompts: Sequence[Sequence[int]], params: list[SamplingParams]) -> list[Any]:
        from vllm import TokensPrompt

        self._wake()
        inputs = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts]
        return self._llm.generate(inputs, params, use_tqdm=False) if inputs else []


def _pick(entries: Sequence[dict[int, Any]], ids: Sequence[int]) -> list[float]:
    """The log-prob of each token out of what vLLM reports at its place (the token itself, and likelier ones)."""
    return [entry[token].logprob for entry, token in zip(entries, ids, strict=True)]


def _reload(worker: Any, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Runs inside the engine's worker."""
    worker.reload_weights(weights_iterator=tensors)
    repack_head(worker.get_model())


def sleep_level(config: GeneratorConfig) -> int:
    """Evaluation has none: its engines end with their work."""
    return config.rollout.sleep_level if isinstance(config.rollout, RolloutConfig) else 0


def start_engine(config: GeneratorConfig) -> LLM:
    """The engine with the base model's weights. Raises WorkerError when memory is short, else ModelError."""
    on_cpu = not torch.accelerator.is_available()
    eager = choose_eager(config.rollout.enforce_eager, on_cpu).value
    _set_environment(eager)
    from vllm import LLM

    memory: dict[str, Any] = {"gpu_memory_utilization": config.rollout.gpu_memory_utilization}
    if on_cpu:
        # A prompt cut into chunks makes vLLM rewind the request's random generator, which CPU generators cannot do.
        memory = {
            "kv_cache_memory_bytes": int(config.rollout.kv_cache_gib * GIB), "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(BATCHED_TOKENS, config.max_model_len)}
    try:
        return LLM(
            str(local_dir(config.model.path)), dtype=config.rollout.dtype, max_model_len=config.max_model_len,
            seed=config.seed, enforce_eager=eager, logprobs_mode="processed_logprobs", skip_tokenizer_init=True,
            generation_config="vllm", load_format="safetensors", use_tqdm_on_load=False, disable_log_stats=True,
            trust_remote_code=config.model.trust_remote_code, enable_sleep_mode=sleep_level(config) > 0, **memory)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        raise _start_error(config, error) from error


def _set_environment(eager: bool) -> None:
    """What vLLM reads from the environment when it is first imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine lives and dies with this process
    os.environ["VLLM_NO_USAGE_STATS"] = os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if eager:  # else a few helpers still call a C++ compiler, for tens of seconds
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None):  # it would win over the config
        logger.warning("VLLM_CPU_KVCACHE_SPACE is not used: rollout.kv_cache_gib says how large the cache is")


def _start_error(config: GeneratorConfig, error: Exception) -> MedrlError:
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or any(word in text.lower() for word in ("memory", "kv cache")):
        return WorkerError("the rollout engine does not fit into memory", got=text,
                           limit=f"rollout.kv_cache_gib {config.rollout.kv_cache_gib:g} (CPU), "
                                 f"rollout.gpu_memory_utilization {config.rollout.gpu_memory_utilization:g} (GPU)",
                           remedy="change these as the engine's message says, lower rollout.max_model_len, or run "
                                  "fewer rollout.workers on this machine")
    return ModelError(f"vLLM cannot run the model in {config.model.path}", got=text,
                      remedy="check that this vLLM knows the model's architecture, or set rollout.engine: hf")
