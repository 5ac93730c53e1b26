"""What the driver reads and checks before any worker starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medrl.config.ppo import PpoConfig
from medrl.data.chat import check_tokenizer, decode_answer, end_token_ids
from medrl.data.prompts import PromptStream, build_prompts
from medrl.lora.identity import check_adapter_of
from medrl.models.loading import check_model_dir, load_tokenizer
from medrl.rollout.base import GenerateRequest, check_context, request_seed
from medrl.tracking.base import check_trackers
from medrl.types import Completion, Prompt, ScoreRequest
from medrl.workers.launch import LaunchInputs
from medrl.workers.reward import check_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PpoInputs:
    """Tokenizer, prompts and what the workers need to know of them."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptStream
    eval_prompts: list[Prompt]
    launch: LaunchInputs

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    @property
    def probe_ids(self) -> tuple[int, ...]:
        """A fixed sequence, at least a few tokens long, that every weight sync is probed with."""
        return self.eval_prompts[0].ids[:64] if self.eval_prompts else tuple(range(8))

    def score_requests(self, completions: list[Completion]) -> list[ScoreRequest]:
        """Completions as text, for scorers with tokenizers of their own."""
        return [
            ScoreRequest(c.prompt.messages, decode_answer(self.tokenizer, c.ids), c.finish == "stop")
            for c in completions
        ]


def prepare(config: PpoConfig) -> PpoInputs:
    """Read the data and check models, tokenizers and lengths. Raises ConfigError, DataError or ModelError."""
    check_trackers(config.tracking)
    check_model_dir(config.model.path)
    check_context(config.model, config.max_model_len)
    if config.reference.adapter:
        check_adapter_of(config.model.path, config.reference.adapter)
    calibrations = check_sources(config.reward, calibrate=config.algorithm.reward.calibrate)
    tokenizer = load_tokenizer(config.model)
    check_tokenizer(tokenizer)
    prompts = build_prompts(config.data.prompts, tokenizer, config.data)
    eval_prompts = build_prompts(config.data.eval_prompts, tokenizer, config.data) if config.data.eval_prompts else []
    updates = config.steps * config.algorithm.epochs * config.algorithm.mini_batches
    return PpoInputs(
        tokenizer,
        PromptStream(prompts, config.data.batch_size, config.seed, config.data.shuffle),
        eval_prompts[: config.evaluation.max_prompts],
        LaunchInputs(end_token_ids(tokenizer), updates, calibrations),
    )


def next_part(config: PpoConfig, step: int, answer: Completion) -> GenerateRequest:
    """The request for the next tokens of an answer that one of `rollout_requests` began, with a seed of its own."""
    first = request_seed(config.seed, step, answer.prompt.id, answer.sample)
    seed = request_seed(first, step, answer.prompt.id, len(answer.ids))
    return GenerateRequest(answer.prompt, answer.sample, seed, begun=answer.ids)


def rollout_requests(config: PpoConfig, step: int, prompts: list[Prompt]) -> list[GenerateRequest]:
    """samples_per_prompt requests a prompt, each with its own seed."""
    return [
        GenerateRequest(prompt, sample, request_seed(config.seed, step, prompt.id, sample))
        for prompt in prompts
        for sample in range(config.data.samples_per_prompt)
    ]
