"""Masked reductions against NumPy on the kept numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medrl.algo.masking import at_least_float32, masked_mean, masked_sum, position_ids, whiten

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)
NUMBERS = st.floats(-100, 100, width=32)


@st.composite
def arrays_and_masks(draw):
    shape = draw(SHAPES)
    return draw(hnp.arrays(np.float32, shape, elements=NUMBERS)), draw(hnp.arrays(bool, shape))


def test_position_ids_do_not_depend_on_the_side_of_the_padding():
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    expected = [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert position_ids(mask).tolist() == expected
    assert position_ids(mask.bool()).tolist() == expected


@given(arrays_and_masks())
def test_sum_and_mean_are_those_of_the_kept_numbers(case):
    x, mask = case
    kept = x[mask].astype(np.float64)
    assert masked_sum(torch.tensor(x), torch.tensor(mask)).item() == pytest.approx(kept.sum(), rel=1e-5, abs=1e-3)
    expected = kept.mean() if kept.size else 0.0
    assert masked_mean(torch.tensor(x), torch.tensor(mask)).item() == pytest.approx(expected, rel=1e-5, abs=1e-3)


@given(arrays_and_masks())
def test_whiten_is_the_standard_score_with_bessel(case):
    x, mask = case
    out = whiten(torch.tensor(x), torch.tensor(mask)).numpy()
    kept = x[mask].astype(np.float64)
    if kept.size >= 2:
        kept = (kept - kept.mean()) / (kept.std(ddof=1) + 1e-8)
    scale = 1 + np.abs(x[mask]).max(initial=0) / max(x[mask].std(ddof=1), 1e-3) if kept.size >= 2 else 1
    if kept.size < 2 or x[mask].std(ddof=1) > 1e-3:  # below, float32 rounding is all there is
        np.testing.assert_allclose(out[mask], kept, atol=1e-5 * scale, rtol=1e-5)
    assert (out[~mask] == 0).all()


def test_whiten_by_hand():
    x = torch.tensor([[1.0, 2.0, 99.0], [99.0, 3.0, 6.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    std = (14 / 3) ** 0.5  # deviations −2, −1, 0, 3 from the mean 3
    expected = torch.tensor([[-2, -1, 0], [0, 0, 3]]) / std
    torch.testing.assert_close(whiten(x, mask), expected)


def test_whiten_leaves_fewer_than_two_tokens_alone():
    x = torch.tensor([[5.0, 7.0]])
    assert whiten(x, torch.tensor([[0, 1]])).tolist() == [[0.0, 7.0]]
    assert whiten(x, torch.tensor([[0, 0]])).tolist() == [[0.0, 0.0]]


def test_what_stands_outside_the_mask_never_matters():
    x = torch.tensor([[1.0, float("nan"), 3.0], [float("inf"), 5.0, float("-inf")]])
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    assert masked_sum(x, mask).item() == 9
    assert masked_mean(x, mask).item() == 3
    assert whiten(x, mask).tolist() == [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_an_empty_mask_gives_zero():
    x, mask = torch.full((2, 3), float("nan")), torch.zeros(2, 3)
    assert masked_sum(x, mask).item() == 0
    assert masked_mean(x, mask).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_summed_in_float32(dtype):
    ones = torch.ones(1, 4097, dtype=dtype)  # bf16 cannot count past 256, fp16 not past 2048
    assert masked_sum(ones, ones).item() == 4097
    assert masked_mean(ones, ones).dtype == torch.float32


def test_wide_dtypes_are_kept():
    assert at_least_float32(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
    assert at_least_float32(torch.ones(1)).dtype == torch.float32
