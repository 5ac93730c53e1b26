"""Learning against the closed-form optimum: `python -m tests.benchmarks.closed_form --tasks full --seeds 0 1 2`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.closed_form", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["full", "permuted", "lora", "conditional"], metavar="TASK",
                        choices=["full", "permuted", "lora", "conditional"], help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("runs/closed_form"), metavar="DIR",
                        help="models, runs, summary.json; models found there are used again (default: %(default)s)")
    options = parser.parse_args()

    from tests.benchmarks.closed_form.report import make_summary, make_table
    from tests.benchmarks.closed_form.runs import run
    from tests.benchmarks.closed_form.world import make_world

    console = Console(width=140)
    world = make_world(options.folder)
    console.print("reward models, accuracy on fresh pairs:", world.accuracy)
    outcomes = []
    for task in options.tasks:
        for seed in options.seeds:
            outcome = run(world, task, seed)
            outcomes.append(outcome)
            console.print(f"{task}, seed {seed}: gap closed {outcome.gap_closed:.3f} in {outcome.seconds:.0f} s")
    console.print(make_table(world, outcomes))
    summary = make_summary(world, outcomes)
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return 0 if all(task["passed"] for task in summary["tasks"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
