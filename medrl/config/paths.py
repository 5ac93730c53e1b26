"""Which settings are paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

# By how the dotted key ends, list positions left out.
MODELS = (
    "model.path", "model.tokenizer", "model.chat_template", "reference.adapter", "reference.model", "sources.model",
    "baseline", "adapter", "base",
)
DATA = ("data.train", "data.eval", "data.calibration", "data.prompts", "data.eval_prompts", "sets.path", "runs")
OUTPUT = ("output_dir", "checkpoint.storage")


def absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Plain config values with every path as it is seen from here: the output folder, and inputs that exist here.

    Other inputs stay: they are hub ids, URLs, names of chat templates, or paths of another machine.
    """

    def absolute(key: str, text: str) -> str:
        if ends(key, OUTPUT) and "://" not in text:
            return str(Path(text).absolute())
        return str(Path(text).absolute()) if ends(key, MODELS + DATA) and Path(text).exists() else text

    return replace_texts(values, absolute)


def replace_texts(value: Any, replace: Callable[[str, str], str], key: str = "") -> Any:
    """`value` with `replace(dotted key, text)` in place of every text in it."""
    if isinstance(value, dict):
        return {name: replace_texts(item, replace, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [replace_texts(item, replace, key) for item in value]
    return replace(key, value) if isinstance(value, str) else value


def ends(key: str, names: tuple[str, ...]) -> bool:
    """True when the dotted key is one of `names`, in whatever section."""
    return any(f".{key}".endswith(f".{name}") for name in names)
