"""What was measured as one JSON file, one Markdown file and the plots that it shows."""

from __future__ import annotations

import json
from pathlib import Path

from medrl.algo.roofline import Rates
from tests.benchmarks.step.figures import Figures
from tests.benchmarks.step.section import Section
from tests.benchmarks.step.sections import memory, overhead, overlap, scaling, speed, sync


def sections(found: list[Figures]) -> list[Section]:
    """Those for which enough was measured."""
    parts = [part.section(found) for part in (speed, overhead, scaling, overlap, memory, sync)]
    return [part for part in parts if part]


def write_report(found: list[Figures], rates: dict[str, Rates], folder: Path) -> None:
    """`folder`/step.json, step.md and *.svg."""
    parts = sections(found)
    plain = {"rates": {dtype: vars(rate) for dtype, rate in rates.items()}, "cases": [f.plain() for f in found],
             "exponents": scaling.exponents(found)}
    (folder / "step.json").write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "step.md").write_text("\n".join(part.markdown() for part in parts), encoding="utf-8")
    for name, svg in (plot for part in parts for plot in part.plots.items()):
        (folder / name).write_text(svg, encoding="utf-8")
