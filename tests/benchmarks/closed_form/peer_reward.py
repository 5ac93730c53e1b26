"""The reward model's exact score of an answer, in the shape in which TRL asks for it. Imports no medrl."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class ExactReward(nn.Module):
    """A reward model to TRL's `get_reward` (a backbone with hidden states, then `score`): calibrated, clipped scores
    of the answer's words, with the end token after them if the answer has one.

    TRL itself would read the ids as sampled, special tokens included. medrl scores text, in which there are none.
    """

    base_model_prefix = "backbone"
    special: Tensor

    def __init__(
        self, model, calibration: tuple[float, float], clip: float, prompt_tokens: int, end: int, special: list[int]
    ) -> None:
        """`model`: for sequence classification, one label; `special`: token ids that text does not show."""
        super().__init__()
        self.model, self.clip, self.prompt_tokens, self.end = model, clip, prompt_tokens, end
        self.mean, self.std = calibration
        self.register_buffer("special", torch.tensor(special))
        self.score = nn.Identity()

    def backbone(self, input_ids: Tensor, **unused) -> SimpleNamespace:
        """ids [B, T], all with a prompt of `prompt_tokens` → hidden_states[-1] [B, T, 1]: a row's score, everywhere."""
        scores = self.scores(input_ids)
        return SimpleNamespace(hidden_states=(scores[:, None, None].expand(*input_ids.shape, 1),))

    @torch.no_grad()
    def scores(self, ids: Tensor) -> Tensor:
        """ids [B, T] → [B]. What comes after the first end token is not read."""
        prompt, answer = ids[:, : self.prompt_tokens], ids[:, self.prompt_tokens :]
        ended = (answer == self.end).cumsum(1)
        shown = torch.where(ended > 0, False, ~torch.isin(answer, self.special))
        shown |= (ended == 1) & (answer == self.end)
        order = (~shown).to(torch.int8).argsort(dim=1, stable=True)  # what is left out goes to the right
        packed = torch.cat((prompt, answer.gather(1, order)), 1)
        length = self.prompt_tokens + shown.sum(1)
        mask = torch.arange(packed.shape[1], device=ids.device) < length[:, None]
        hidden = self.model.base_model(input_ids=packed * mask, attention_mask=mask.long()).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device), length - 1]
        return ((self.model.score(last).squeeze(-1) - self.mean) / self.std).clamp(-self.clip, self.clip)
