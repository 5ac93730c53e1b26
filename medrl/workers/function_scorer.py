"""A Python function as a scorer."""

from __future__ import annotations

import importlib
import sys
import traceback
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
                got=f"{type(error).__name__} at {_place(error)}",  # its own text may quote an answer
                remedy="fix the function",
            ) from None

    return score


def _place(error: Exception) -> str:
    """File and line of every call from the function down to where it failed."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is our own call
    return " → ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames) or "its call"


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
