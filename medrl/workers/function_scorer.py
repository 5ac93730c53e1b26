"""A Python function as a scorer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.errors import ConfigError, RewardError
from medrl.types import ScoreRequest


def function_scorer(source: RewardSource, _pool: RewardPoolConfig) -> Callable[[list[ScoreRequest]], Any]:
    """`module:function(messages, answers) -> scores`, found on the path or in the working directory."""
    function = load_function(source)

    def score(requests: list[ScoreRequest]) -> Any:
        try:
            return function([list(r.messages) for r in requests], [r.answer for r in requests])
        except Exception as error:
            raise RewardError(
                f"reward source {source.name!r}: {source.function} raised",
                got=f"{type(error).__name__}: {error}",
                remedy="fix the function",
            ) from error

    return score


def load_function(source: RewardSource) -> Callable:
    """The Python function a source names. Raises ConfigError when it cannot be found."""
    assert source.function is not None
    module_name, _, name = source.function.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"reward source {source.name!r}: cannot load {source.function}",
            got=str(error),
            remedy="give an importable module:function; the working directory is on the path",
        ) from None
    if not callable(function):
        raise ConfigError(
            f"reward source {source.name!r}: {source.function} is not a function", got=type(function).__name__
        )
    return function
