"""Answers compared with reference answers. With several references the nearest counts. All are 0 … 100."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.language import is_chinese, units
from medrl.evaluation.measured import Answer


class _Units:
    """rouge_score's interface of a tokenizer; its own one drops all that is not ASCII."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return units(text)


def rouge_l(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """F1 of the longest common subsequence of words, of characters in Chinese (Lin 2004); mean over answers."""
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds (nltk), and PPO imports all metrics

    scorer = RougeScorer(["rougeL"], tokenizer=_Units())
    scores = [scorer.score_multi(list(a.references), a.text)["rougeL"].fmeasure for a in answers]
    return bootstrap.mean([100 * score for score in scores])


def bleu(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """Corpus BLEU (Papineni 2002, sacrebleu's exponential smoothing) on sacrebleu's tokens, `zh` for Chinese rows."""
    scorers = {chinese: BLEU(tokenize="zh" if chinese else "13a", effective_order=True) for chinese in (True, False)}
    parts = []
    for answer in answers:
        score = scorers[is_chinese(answer.references[0])].sentence_score(answer.text, list(answer.references))
        parts.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return bootstrap.of_sums(parts, _bleu_of_sums)


def _bleu_of_sums(sums: np.ndarray) -> float:
    counts, totals, (answered, wanted) = sums[:4], sums[4:8], sums[8:].astype(int).tolist()
    return BLEU.compute_bleu(counts.astype(int).tolist(), totals.astype(int).tolist(), answered, wanted, "exp").score


def chrf(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """F2 of character n-grams up to 6 (Popović 2015, as sacrebleu computes it for one answer); mean over answers."""
    scorer = CHRF()
    return bootstrap.mean([scorer.sentence_score(a.text, list(a.references)).score for a in answers])
