"""One PPO step of medrl, and of TRL 1.12 beside it: `python -m tests.benchmarks.step --cases "full fp32" --steps 6`.

TRL runs in an environment of its own (`make .venv-trl/.stamp`). Both get the same cores, models, prompts and settings;
a figure is the median over the steps after the first. Cases that TRL has no counterpart for vary one thing at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from tests.benchmarks.step.cases import CASES
from tests.benchmarks.step.sweeps import VARIED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.step", description=__doc__)
    known = CASES | VARIED
    parser.add_argument("--cases", nargs="+", default=list(known), choices=list(known), metavar="CASE",
                        help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--steps", type=int, default=6, metavar="N",
                        help="with the first, which is left out; at least 3")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/step"), metavar="DIR")
    parser.add_argument("--without-peer", action="store_true", help="medrl alone")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings of `medrl ppo`")
    options = parser.parse_args()
    if options.steps < 3:
        parser.error(f"--steps must be at least 3, got {options.steps}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])

    from tests.benchmarks.step.bounds import base_bytes, bounds, measured_rates
    from tests.benchmarks.step.figures import Figures
    from tests.benchmarks.step.own import run_own
    from tests.benchmarks.step.peer_process import run_peer
    from tests.benchmarks.step.report import sections, write_report
    from tests.benchmarks.step.sections import speed
    from tests.benchmarks.step.world import make_world

    console, found, peers = Console(width=180), [], {}
    rates = {dtype: measured_rates(dtype, options.threads) for dtype in ("float32", "bfloat16")}
    for name in options.cases:
        case = known[name]
        world = make_world(case, options.folder / "worlds")
        own = run_own(case, world, options.steps, _folder(options, name) / "medrl", tuple(options.overrides))
        if case.peer and case.peer not in peers and not options.without_peer:
            peers[case.peer] = run_peer(
                known[case.peer], world, options.steps, options.threads, _folder(options, case.peer) / "trl")
        least = bounds(case, world, sum(own.tokens) / len(own.tokens), rates[case.dtype])
        found.append(Figures(case, own, peers.get(case.peer, {}), least, base_bytes(case, world)))
        console.print(speed.section(found[-1:]).table())
        write_report(found, rates, options.folder)  # each time: a run that is broken off leaves what it has
    for part in sections(found):
        console.print(part.table())
    return 0


def _folder(options: argparse.Namespace, name: str) -> Path:
    return options.folder / name.replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
