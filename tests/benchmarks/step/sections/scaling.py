"""How each phase grows with a size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.growth import Growth, growth
from tests.benchmarks.step.own import PHASES
from tests.benchmarks.step.plots import lines
from tests.benchmarks.step.section import Section
from tests.benchmarks.step.sweeps import SWEEPS, Sweep

TIMES = (*PHASES, "step")
NOTE = ("Exponent e of seconds ∝ size^e, fitted to the medians, with the 95 % bootstrap interval over the measured "
        "steps; in brackets the least possible time's. One epoch a batch. Engines and ranks have one thread each: two "
        "of them use twice the cores that one does, and −1 is perfect (engines: generate; ranks: update). Policy and "
        "critic share their ranks there, with LoRA.")
COLUMNS = ("size", "values", *TIMES)


def section(found: list[Figures]) -> Section | None:
    """None when no sweep has two of its sizes measured."""
    measured = _measured(found)
    if not measured:
        return None
    plots = {f"scaling-{sweep.name.replace(' ', '-')}.svg": _plot(sweep, points) for sweep, points in measured}
    return Section("Scaling", NOTE, COLUMNS, [_row(sweep, points) for sweep, points in measured], plots)


def exponents(found: list[Figures]) -> dict[str, dict[str, dict[str, float]]]:
    """The same as plain values: sweep → phase → exponent, low, high."""
    return {sweep.name: {phase: asdict(_growth(points, phase)) for phase in TIMES}
            for sweep, points in _measured(found)}


def _measured(found: list[Figures]) -> list[tuple[Sweep, dict[int, Figures]]]:
    by_name = {figures.case.name: figures for figures in found}
    points = [(sweep, {size: by_name[case.name] for size, case in sweep.cases.items() if case.name in by_name})
              for sweep in SWEEPS]
    return [(sweep, sizes) for sweep, sizes in points if len(sizes) > 1]


def _growth(points: Mapping[int, Figures], phase: str) -> Growth:
    return growth({size: figures.own.seconds[phase] for size, figures in points.items()})


def _row(sweep: Sweep, points: Mapping[int, Figures]) -> list[str]:
    cells = []
    for phase in TIMES:
        found = _growth(points, phase)
        cell = f"{found.exponent:.2f} [{found.low:.2f}, {found.high:.2f}]"
        if sweep.bounded and phase in next(iter(points.values())).least:
            least = growth({size: [figures.least[phase]] for size, figures in points.items()})
            cell += f" ({least.exponent:.2f})"
        cells.append(cell.replace("-", "−"))
    return [sweep.name, ", ".join(map(str, points)), *cells]


def _plot(sweep: Sweep, points: Mapping[int, Figures]) -> str:
    seconds = {size: figures.phases | {"step": figures.step} for size, figures in points.items()}
    series = {phase: [(size, times[phase]) for size, times in seconds.items()] for phase in TIMES}
    return lines(f"Seconds of a step over {sweep.name}", "s, both axes logarithmic", series)
