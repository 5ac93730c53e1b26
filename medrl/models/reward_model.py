"""A reward model that scores answers given as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medrl.algo.masking import position_ids
from medrl.config.common import DType, ModelConfig
from medrl.data.batching import micro_batches
from medrl.data.chat import encode_answer
from medrl.errors import RewardError
from medrl.models.device import pass_tokens, pick_device
from medrl.models.forward import last_token_scores
from medrl.models.loading import load_tokenizer
from medrl.models.scalar_head import ScalarModel
from medrl.types import ScoreRequest


class RewardModel:
    """A sequence-classification model with one label; texts are encoded with its own tokenizer and template.

    `calibration` (mean, std) makes the scores (raw − mean) / std; None leaves them raw. Errors name
    it `name`. Raises ModelError when `path`
    holds no reward model.
    """

    def __init__(
        self, path: str, dtype: DType, *, name: str, max_length: int, micro_batch_size: int,
        calibration: tuple[float, float] | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = load_tokenizer(ModelConfig(path=path))
        self.device = pick_device()
        self.model = ScalarModel.from_reward(path, dtype, calibration).to(self.device).eval()
        self.max_length = max_length
        self.micro_batch_size = micro_batch_size

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> np.ndarray:
        """One score an answer, [n] float32. Raises RewardError when one has more than `max_length` tokens."""
        encoded = [encode_answer(self.tokenizer, r.messages, r.answer, r.ended) for r in requests]
        lengths = np.array([len(ids) for ids in encoded])
        longest = int(lengths.argmax())
        if lengths[longest] > self.max_length:
            raise RewardError(
                f"{self.name}: answer {longest} of {len(requests)} is too long",
                limit=f"max_length {self.max_length} tokens with its prompt",
                got=f"{lengths[longest]} tokens",
                remedy="raise reward.max_length, or lower sampling.max_tokens",
            )
        out = np.zeros(len(encoded), np.float32)
        for rows in micro_batches(lengths, self.micro_batch_size, pass_tokens=pass_tokens(self.device)):
            ids = torch.zeros((len(rows), int(lengths[rows].max())), dtype=torch.long)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            for j, i in enumerate(rows):
                ids[j, : lengths[i]] = torch.tensor(encoded[i])
                mask[j, : lengths[i]] = True
            ids, mask = ids.to(self.device), mask.to(self.device)
            out[rows] = last_token_scores(self.model(ids, mask, position_ids(mask)), mask).cpu().numpy()
        return out
