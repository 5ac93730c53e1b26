"""A long vocabulary and long rows: what the learner holds at its peak."""

from __future__ import annotations

import pytest

from tests.benchmarks.learner.memory import peak


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("frozen_head", [False, True])
def test_chunks_take_an_eighth_of_the_memory_of_whole_logits_at_most(rows: int, frozen_head: bool) -> None:
    whole, chunked = (peak(rows, whole, frozen_head) for whole in (True, False))
    print(f"B = {rows}, frozen head {frozen_head}: whole {whole:,.0f} MiB, in chunks {chunked:,.0f} MiB")
    assert chunked <= whole / 8
