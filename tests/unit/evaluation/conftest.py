from __future__ import annotations

from collections.abc import Callable

import pytest

from medrl.evaluation.bootstrap import Bootstrap
from medrl.evaluation.measured import Answer


@pytest.fixture
def few() -> Bootstrap:
    """Few resamples: these tests look at values."""
    return Bootstrap(20, seed=0)


@pytest.fixture
def answer() -> Callable[..., Answer]:
    """An answer of which only what matters is given."""

    def make(text: str = "", prompt: str = "?", **values) -> Answer:
        return Answer("p", ({"role": "user", "content": prompt},), text, values.pop("ids", (1,)), True, **values)

    return make
