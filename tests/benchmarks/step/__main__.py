"""One PPO step of medrl and of TRL 1.12 side by side: `python -m tests.benchmarks.step --cases "full fp32" --steps 6`.

TRL runs in an environment of its own (`make .venv-trl/.stamp`). Both get the same cores, models, prompts and settings;
a figure is the median over the steps after the first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console

from tests.benchmarks.step.cases import CASES, SWEEP


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.step", description=__doc__)
    known = {**CASES, **SWEEP}
    parser.add_argument("--cases", nargs="+", default=list(known), choices=list(known), metavar="CASE",
                        help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="with the first, which is left out")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/step"), metavar="DIR")
    parser.add_argument("--without-peer", action="store_true", help="medrl alone")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings of `medrl ppo`")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    from tests.benchmarks.step.bounds import bounds, measured_rates
    from tests.benchmarks.step.own import run_own
    from tests.benchmarks.step.peer_process import run_peer
    from tests.benchmarks.step.report import Figures, make_markdown, make_table
    from tests.benchmarks.step.world import make_world

    console, found = Console(width=140), []
    rates = {dtype: measured_rates(dtype, options.threads) for dtype in ("float32", "bfloat16")}
    for name in options.cases:
        case, folder = known[name], options.folder / name.replace(" ", "-")
        world = make_world(case, options.folder / "worlds")
        own = run_own(case, world, options.steps, folder / "medrl", tuple(options.overrides))
        peer = {} if options.without_peer else run_peer(case, world, options.steps, options.threads, folder / "trl")
        least = bounds(case, world, sum(own["tokens"]) / len(own["tokens"]), rates[case.dtype])
        found.append(Figures(case, own, peer, least))
        console.print(make_table(found[-1:]))
    console.print(make_table(found))
    summary = {"rates": {dtype: vars(rate) for dtype, rate in rates.items()}, "cases": [f.plain() for f in found]}
    (options.folder / "step.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (options.folder / "step.md").write_text(make_markdown(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
