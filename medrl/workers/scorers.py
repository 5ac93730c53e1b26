"""Scorers: a reward model or a Python function, one float an answer. A scorer that fails raises."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medrl.config.ppo import RewardPoolConfig, RewardSource
from medrl.errors import ConfigError, RewardError
from medrl.types import ScoreRequest

Scorer = Callable[[list[ScoreRequest]], np.ndarray]  # → [n] float32


def make_scorer(source: RewardSource, pool: RewardPoolConfig) -> Scorer:
    """The scorer of one reward source."""
    score = model_scorer(source, pool) if source.model else function_scorer(source)

    def checked(requests: list[ScoreRequest]) -> np.ndarray:
        scores = score(requests)
        bad = [i for i, value in enumerate(scores) if not math.isfinite(value)]
        if bad:
            raise RewardError(
                f"reward source {source.name!r} returned a score that is not a finite number",
                got=f"{scores[bad[0]]} for answer {bad[0]} ({len(bad)} of {len(scores)} answers)",
                remedy="fix the scorer; a missing score is never replaced by zero",
            )
        return scores

    return checked


def model_scorer(source: RewardSource, pool: RewardPoolConfig) -> Scorer:
    """A sequence-classification reward model. Texts are encoded with its own tokenizer and template."""
    import torch

    from medrl.algo.masking import position_ids
    from medrl.config.common import ModelConfig
    from medrl.data.batching import micro_batches
    from medrl.data.chat import encode_answer
    from medrl.models.device import pick_device
    from medrl.models.forward import last_token_scores
    from medrl.models.loading import load_tokenizer
    from medrl.models.scalar_head import ScalarModel

    assert source.model is not None
    tokenizer = load_tokenizer(ModelConfig(path=source.model))
    device = pick_device()
    model = ScalarModel.from_reward(source.model, source.dtype).to(device).eval()

    @torch.inference_mode()
    def score(requests: list[ScoreRequest]) -> np.ndarray:
        encoded = [encode_answer(tokenizer, r.messages, r.answer, r.ended) for r in requests]
        longest = max(len(ids) for ids in encoded)
        if longest > pool.max_length:
            raise RewardError(
                f"reward source {source.name!r}: an answer is too long for the reward model",
                limit=f"reward.max_length {pool.max_length} tokens",
                got=f"{longest} tokens",
                remedy="raise reward.max_length, or lower sampling.max_tokens",
            )
        out = np.zeros(len(encoded), np.float32)
        for rows in micro_batches(np.array([len(ids) for ids in encoded]), pool.micro_batch_size):
            width = max(len(encoded[i]) for i in rows)
            ids = torch.zeros((len(rows), width), dtype=torch.long)
            mask = torch.zeros((len(rows), width), dtype=torch.bool)
            for j, i in enumerate(rows):
                ids[j, : len(encoded[i])] = torch.tensor(encoded[i])
                mask[j, : len(encoded[i])] = True
            ids, mask = ids.to(device), mask.to(device)
            out[rows] = last_token_scores(model(ids, mask, position_ids(mask)), mask).cpu().numpy()
        return out

    return score


def function_scorer(source: RewardSource) -> Scorer:
    """`module:function(messages, answers) -> scores`, found on the path or in the working directory."""
    function = load_function(source)

    def score(requests: list[ScoreRequest]) -> np.ndarray:
        try:
            scores = function([list(r.messages) for r in requests], [r.answer for r in requests])
        except Exception as error:
            raise RewardError(
                f"reward source {source.name!r}: {source.function} raised",
                got=f"{type(error).__name__}: {error}",
                remedy="fix the function",
            ) from error
        if len(scores) != len(requests):
            raise RewardError(
                f"reward source {source.name!r}: {source.function} returned the wrong number of scores",
                limit=f"{len(requests)} scores",
                got=f"{len(scores)}",
                remedy="return one number an answer, in order",
            )
        try:
            return np.asarray([float(value) for value in scores], np.float32)
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"reward source {source.name!r}: {source.function} returned something that is not a number",
                got=str(error),
                remedy="return a list of floats",
            ) from None

    return score


def load_function(source: RewardSource) -> Callable:
    """The Python function a source names. Raises ConfigError when it cannot be found."""
    assert source.function is not None
    module_name, _, name = source.function.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"reward source {source.name!r}: cannot load {source.function}",
            got=str(error),
            remedy="give an importable module:function; the working directory is on the path",
        ) from None
    if not callable(function):
        raise ConfigError(
            f"reward source {source.name!r}: {source.function} is not a function", got=type(function).__name__
        )
    return function
