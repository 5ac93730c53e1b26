"""Weight syncs: seconds and bytes."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.step.cases import CASES
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.section import Section

NOTE = ("Medians. Engine: one engine's pull, merge, reload and probe; phase: with the policy's export. Bytes: what one "
        "engine pulls, adapters with LoRA and the whole model without.")
COLUMNS = ("case", "weights", "engine, ms", "phase, ms", "KiB")


def section(found: list[Figures]) -> Section | None:
    """None when only sweeps were measured."""
    shown = [figures for figures in found if figures.case.name in CASES]
    return Section("Weight sync", NOTE, COLUMNS, [_row(figures) for figures in shown]) if shown else None


def _row(figures: Figures) -> list[str]:
    engine, size = (median(figures.own.sync[name]) for name in ("seconds", "bytes"))
    return [figures.case.name, "adapter" if figures.case.lora_rank else "all", f"{1000 * engine:.0f}",
            f"{1000 * figures.phases['sync']:.0f}", f"{size / 1024:.0f}"]
