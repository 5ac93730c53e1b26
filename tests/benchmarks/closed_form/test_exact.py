"""The enumeration that the benchmark rests on, against the code that PPO runs, and against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.data.chat import check_tokenizer, decode_answer, encode_answer, encode_prompt
from medrl.models.forward import policy_forward
from medrl.models.scalar_head import ScalarModel
from medrl.types import ScoreRequest
from medrl.workers.scorers import make_scorer
from tests.benchmarks.closed_form import grammar
from tests.benchmarks.closed_form.exact import Bound, answer_logprobs, answer_scores
from tests.benchmarks.closed_form.grammar import Answer

PROMPT = "minus c a f d"
CLIP = 1.5


def draw(policy, answers, count, seed=0):
    """Rows of `answers` drawn with the policy's probabilities, and those log-probs."""
    logprobs = answer_logprobs(policy, grammar.token_ids(PROMPT, Answer((), ended=False)))
    rows = torch.multinomial(logprobs.exp(), count, replacement=True, generator=torch.Generator().manual_seed(seed))
    return rows, logprobs


def test_the_tokenizer_can_be_trained_with(tokenizer):
    check_tokenizer(tokenizer)
    messages = [{"role": "user", "content": PROMPT}]
    for answer in (Answer(("a", "plus", "f")), Answer(()), Answer(("b",) * 5, ended=False)):
        assert encode_answer(tokenizer, messages, answer.text, answer.ended) == grammar.token_ids(PROMPT, answer)
    assert len(encode_prompt(tokenizer, messages)) == grammar.PROMPT_TOKENS


def test_every_answer_is_there_once(answers):
    assert len(answers.node) == sum(11**n for n in range(5)) + 11**5
    assert len(torch.unique(answers.padded, dim=0)) == len(answers.padded)
    end = grammar.VOCABULARY.index(grammar.END)
    assert torch.equal((answers.padded == end).any(1), answers.ended)
    shares = answers.token_shares(torch.ones(len(answers.node), dtype=torch.float64))
    assert shares[end].item() == pytest.approx((answers.ended.sum() / answers.length.sum()).item())


def test_probabilities_sum_to_one_and_match_the_forward_pass(policy, answers):
    _, logprobs = draw(policy, answers, 1)
    assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-6)
    for row in (0, 5, 700, 16_000, 16_105, 177_155):
        tokens = answers.tokens(row)
        ids = torch.tensor([grammar.token_ids(PROMPT, Answer((), ended=False)) + tokens])
        response = torch.arange(ids.shape[1])[None] >= grammar.PROMPT_TOKENS
        per_token, _ = policy_forward(policy, ids, torch.ones_like(response), response, 1.0, entropy=False)
        assert per_token.sum().item() == pytest.approx(logprobs[row].item(), abs=1e-4)


def test_scores_match_the_scorer_that_reads_text(policy, answers, reward_dir, tokenizer):
    rows, _ = draw(policy, answers, 40)
    model = ScalarModel.from_reward(str(reward_dir), "float32", (0.2, 0.5))
    ours = answer_scores(model, grammar.token_ids(PROMPT, Answer((), ended=False)), answers, CLIP)[rows]
    messages = ({"role": "user", "content": PROMPT},)
    texts = [decode_answer(tokenizer, answers.tokens(row)) for row in rows.tolist()]
    requests = [ScoreRequest(messages, *request) for request in zip(texts, answers.ended[rows].tolist(), strict=True)]
    source = RewardSource(name="rm", model=str(reward_dir))
    theirs = (make_scorer(source, RewardPoolConfig(sources=[source]))(requests) - 0.2) / 0.5
    np.testing.assert_allclose(ours.numpy(), theirs.clip(-CLIP, CLIP), atol=1e-4)
    assert ours.std() > 0.1


def test_quality_agrees_with_monte_carlo_and_the_optimum_is_best(policy, answers, reward_dir):
    rows, logprobs = draw(policy, answers, 20_000)
    prompt = grammar.token_ids(PROMPT, Answer((), ended=False))
    scores = answer_scores(ScalarModel.from_reward(str(reward_dir), "float32"), prompt, answers, CLIP)
    reference = (logprobs / 2).log_softmax(-1)
    bound = Bound(0.1, answers, reference[None], scores[None], scores[None])
    quality = bound.quality(logprobs[None])
    sampled = scores[rows] - 0.1 * (logprobs - reference)[rows]
    assert quality.objective == pytest.approx(sampled.mean().item(), abs=5 * sampled.std().item() / 20_000**0.5)
    assert quality.length == pytest.approx(answers.length[rows].double().mean().item(), abs=0.05)
    best = bound.quality(bound.optimum())
    assert best.objective == pytest.approx(bound.best_objective(), abs=1e-9)
    assert bound.gap_closed(best) == pytest.approx(1) and bound.gap_closed(quality) < 1
    assert bound.gap_closed(bound.quality(reference[None])) == 0
