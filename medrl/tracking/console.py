"""The run as a table that grows in the terminal, or as plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from medrl.timer import duration

SHOWN_STEPS = 12  # rows of the live table; older steps scroll out of it
PACE_STEPS = 10  # steps whose duration the ETA is based on


@dataclass(frozen=True)
class Column:
    """One metric as it is shown."""

    title: str
    key: str
    format: str


COLUMNS = (
    Column("reward", "rollout/score_mean", "+.3f"),
    Column("KL", "rollout/kl_sum_mean", ".3f"),
    Column("length", "rollout/length_mean", ".1f"),
    Column("tok/s", "rollout/tokens_per_second", ".0f"),
    Column("gen s", "time/generate", ".1f"),
    Column("score s", "time/score", ".1f"),
    Column("update s", "time/update", ".1f"),
    Column("sync s", "time/sync", ".2f"),
    Column("eval", "eval/score_mean", "+.3f"),
)


class ConsoleTracker:
    """Step, reward, KL, length, tokens/s, seconds of each phase, held-out reward and the time left."""

    def __init__(self, total_steps: int, resume_step: int | None = None, console: Console | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total_steps
        self._clock = clock
        self._ends = deque([clock()], maxlen=PACE_STEPS + 1)
        self._rows: deque[list[str]] = deque(maxlen=SHOWN_STEPS)
        self._console = console or Console()
        self._live = None
        if self._console.is_terminal:
            self._live = Live(self._table(resume_step or 0), console=self._console, auto_refresh=False)
            self._live.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._ends.append(self._clock())
        if self._live is None:
            shown = (f"{c.title} {_text(metrics.get(c.key), c.format)}" for c in COLUMNS if c.key in metrics)
            line = f"step {step}/{self._total}  {'  '.join(shown)}  ETA {self._eta(step)}"
            self._console.print(line, highlight=False, soft_wrap=True)
            return
        self._rows.append([str(step), *(_text(metrics.get(c.key), c.format) for c in COLUMNS)])
        self._live.update(self._table(step), refresh=True)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        return

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, step: int) -> Table:
        title = f"step {step} of {self._total} · ETA {self._eta(step)}"
        table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        for title in ("step", *(c.title for c in COLUMNS)):
            table.add_column(title, justify="right")
        for row in self._rows:
            table.add_row(*row)
        return table

    def _eta(self, step: int) -> str:
        if len(self._ends) < 2:
            return "–"
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return duration(pace * (self._total - step))


def _text(value: float | None, spec: str) -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, spec)
