"""The live table and its plain form."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from medrl.tracking.console import COLUMNS, SHOWN_STEPS, ConsoleTracker

METRICS = {
    "rollout/score_mean": 0.5, "rollout/kl_sum_mean": 1.25, "rollout/length_mean": 80.25,
    "rollout/tokens_per_second": 1234.4, "time/generate": 2.5, "time/score": 1.5, "time/update": 12.25,
    "time/sync": 0.125,
}


def tracker_on(terminal: bool, total: int, clock=None, width: int = 80) -> tuple[ConsoleTracker, io.StringIO]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=width, color_system=None)
    return ConsoleTracker(total, console=console, clock=clock or itertools.count().__next__), screen


def test_without_a_terminal_each_step_is_one_plain_line() -> None:
    tracker, screen = tracker_on(False, 3, clock=itertools.count(0, 10).__next__)
    tracker.log(1, METRICS)
    tracker.log(2, METRICS | {"eval/score_mean": -0.25})
    tracker.close()
    figures = "reward +0.500  KL 1.250  length 80.2  tok/s 1234  gen s 2.5  score s 1.5  update s 12.2  sync s 0.12"
    assert screen.getvalue().splitlines() == [
        f"step 1/3  {figures}  ETA 20s",
        f"step 2/3  {figures}  eval -0.250  ETA 10s",
    ]


def test_on_a_terminal_the_table_shows_every_figure_within_80_columns() -> None:
    tracker, screen = tracker_on(True, 3)
    tracker.log(1, METRICS | {"eval/score_mean": -0.25})
    tracker.close()
    text = screen.getvalue()
    for figure in ("step 1 of 3 · ETA 2s", "+0.500", "1.250", "80.2", "1234", "2.5", "1.5", "12.2", "0.12", "-0.250"):
        assert figure in text
    assert "…" not in text
    for column in COLUMNS:
        assert column.title.split()[0] in text


def test_only_the_last_steps_stay_in_the_table() -> None:
    tracker, screen = tracker_on(True, 100)
    for step in range(1, SHOWN_STEPS + 4):
        tracker.log(step, METRICS)
    screen.truncate(0)
    tracker.close()
    first_words = [line.split()[0] for line in screen.getvalue().splitlines() if line.split()]
    shown = [int(word) for word in first_words if word.isdigit()]
    assert shown == list(range(4, SHOWN_STEPS + 4))


def test_metrics_that_are_missing_or_undefined_show_a_dash() -> None:
    tracker, screen = tracker_on(False, 2)
    tracker.log(1, {"rollout/score_mean": float("nan"), "rollout/kl_sum_mean": float("inf")})
    assert screen.getvalue() == "step 1/2  reward –  KL –  ETA 1s\n"


@pytest.mark.parametrize(("seconds_a_step", "steps_left", "eta"), [
    (1, 0, "0s"), (2.4, 10, "24s"), (59.9, 1, "1m00s"), (10, 9, "1m30s"), (60, 59, "59m00s"), (60, 60, "1h00m"),
    (3600, 25, "25h00m"),
])
def test_time_left(seconds_a_step: float, steps_left: int, eta: str) -> None:
    tracker, screen = tracker_on(False, steps_left + 1, clock=itertools.count(0, seconds_a_step).__next__)
    tracker.log(1, {})
    assert screen.getvalue() == f"step 1/{steps_left + 1}    ETA {eta}\n"


def test_time_left_follows_the_recent_pace() -> None:
    """A slow start (compilation, first load) is forgotten after ten steps."""
    times = iter([0.0, 1000.0, *(1000.0 + n for n in range(1, 11))])
    tracker, screen = tracker_on(False, 21, clock=times.__next__)
    for step in range(1, 12):
        tracker.log(step, {})
    assert screen.getvalue().splitlines()[-1].endswith("ETA 10s")


def test_prints_of_others_do_not_destroy_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """While the table is live, whatever else is printed appears above it."""
    tracker, screen = tracker_on(True, 2)
    tracker.log(1, METRICS)
    print("a note")
    tracker.close()
    assert "a note" in screen.getvalue() + capsys.readouterr().out


def test_the_terminal_is_given_back() -> None:
    tracker, screen = tracker_on(True, 2)
    tracker.log(1, METRICS)
    tracker.close()
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is visible again
