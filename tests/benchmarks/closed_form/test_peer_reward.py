"""What TRL trains on is the score that J is made of."""

from __future__ import annotations

import torch
from transformers import AutoModelForSequenceClassification

from medrl.models.scalar_head import ScalarModel
from tests.benchmarks.closed_form import grammar
from tests.benchmarks.closed_form.exact import answer_scores
from tests.benchmarks.closed_form.grammar import Answer
from tests.benchmarks.closed_form.peer_reward import ExactReward

CLIP = 1.5
CALIBRATION = (0.2, 0.5)


def test_the_peer_gets_the_exact_score_of_any_answer(answers, reward_dir, tokenizer):
    prompt = grammar.token_ids("plus b e e a", Answer((), ended=False))
    rows = torch.randperm(len(answers.node), generator=torch.Generator().manual_seed(0))[:300]
    rows = torch.cat((torch.arange(200), rows))  # the first ones are the shortest
    padded = torch.where(answers.padded[rows] < 0, tokenizer.pad_token_id, answers.padded[rows])
    ids = torch.cat((torch.tensor(prompt).expand(len(rows), -1), padded), 1)
    model = AutoModelForSequenceClassification.from_pretrained(reward_dir)
    reward = ExactReward(model, CALIBRATION, CLIP, len(prompt), tokenizer.eos_token_id, tokenizer.all_special_ids)
    output = getattr(reward, reward.base_model_prefix)(input_ids=ids, output_hidden_states=True)  # as TRL 1.12 does it
    seen = reward.score(output.hidden_states[-1]).squeeze(-1)
    exact = answer_scores(ScalarModel.from_reward(str(reward_dir), "float32", CALIBRATION), prompt, answers, CLIP)
    torch.testing.assert_close(seen.double(), exact[rows, None].expand(seen.shape), atol=1e-4, rtol=0)
    assert exact[rows].std() > 0.1
