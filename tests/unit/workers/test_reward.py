"""How the sources' scores become one."""

from __future__ import annotations

import numpy as np
import pytest

from medrl.workers.reward import combine


def raw(*sources: list[float]) -> np.ndarray:
    return np.array(sources, np.float32).T


def test_calibrated_weighted_and_summed_in_order() -> None:
    scores = combine(raw([4.0, -2.0, 1.0], [1.0, 0.0, 0.5]), {"rm": 2.0, "rule": -0.5}, {"rm": (1.0, 3.0)})
    # 2·(4 − 1)/3 − ½·1, 2·(−2 − 1)/3 − ½·0, 2·(1 − 1)/3 − ½·½
    assert scores.total.tolist() == pytest.approx([1.5, -2.0, -0.25]) and scores.total.dtype == np.float32
    assert scores.parts["rm"].tolist() == [4.0, -2.0, 1.0] and scores.parts["rule"].tolist() == [1.0, 0.0, 0.5]


def test_calibrated_sft_answers_score_mean_0_deviation_1() -> None:
    scores = np.random.default_rng(0).normal(-3.0, 2.5, 1000).astype(np.float32)
    total = combine(scores[:, None], {"rm": 1.0}, {"rm": (float(scores.mean()), float(scores.std()))}).total
    assert total.mean() == pytest.approx(0, abs=1e-5) and total.std() == pytest.approx(1, abs=1e-5)


def test_a_weight_of_zero_keeps_the_source_for_the_record() -> None:
    scores = combine(raw([1.0, 2.0], [7.0, 7.0]), {"a": 1.0, "b": 0.0}, {})
    assert scores.total.tolist() == [1.0, 2.0] and scores.parts["b"].tolist() == [7.0, 7.0]
