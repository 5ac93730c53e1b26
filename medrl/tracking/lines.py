"""A supervised run as a few plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 10  # about as many lines a run, besides those with an evaluation
PARTS = {"loss": "loss {:.4f}", "lr": "lr {:.2e}", "seconds": "{:.0f} s", "eval_loss": "eval_loss {:.4f}"}


class LineTracker:
    """About ten lines of a run, and every evaluation. Each row says of how many `steps` it is one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        steps = int(metrics.get("steps", 0))
        if "eval_loss" in metrics or step in (1, steps) or step % max(1, steps // SHOWN) == 0:
            parts = [text.format(metrics[key]) for key, text in PARTS.items() if key in metrics]
            print("  ".join([f"{self._name} step {step}/{steps}", *parts]), flush=True)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        return

    def close(self) -> None:
        return
