"""Request seeds: stable, in range, and different wherever the request is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from medrl.rollout.base import request_seed

KEYS = st.tuples(st.integers(0, 2**31), st.integers(0, 10_000), st.text(max_size=20), st.integers(0, 64))


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    # A resumed run must sample what the first one would have. Computed with coreutils:
    # printf '[0, 1, "p17", 0]' | sha256sum  →  first 16 hex digits, shifted right by one bit
    assert request_seed(0, 1, "p17", 0) == 7970890020231413727


@given(KEYS)
def test_a_seed_fits_a_signed_64_bit_integer(key: tuple[int, int, str, int]) -> None:
    assert 0 <= request_seed(*key) < 2**63


@given(KEYS, KEYS)
def test_different_requests_have_different_seeds(one: tuple, other: tuple) -> None:
    assert (request_seed(*one) == request_seed(*other)) == (one == other)


def test_all_requests_of_a_run_have_different_seeds() -> None:
    keys = list(itertools.product((0, 1), range(20), [f"p{i}" for i in range(20)], range(8)))
    assert len({request_seed(*key) for key in keys}) == len(keys)


def test_parts_of_the_key_do_not_run_into_each_other() -> None:
    assert len({request_seed(1, 11, "1", 1), request_seed(11, 1, "1", 1), request_seed(1, 1, "11", 1),
                request_seed(1, 1, "1", 11), request_seed(1, 1, '1", 1', 1)}) == 5
