"""Learning against the closed-form optimum: `python -m tests.benchmarks.closed_form --tasks full ahead --seeds 0 1 2`.

Tasks that begin with trl_ are TRL 1.12's PPOTrainer on the same problem, in its own environment
(`make .venv-trl/.stamp`), one task a learning rate; medrl's runs are compared with the best of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from tests.benchmarks.closed_form.tasks import TASKS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.closed_form", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK",
                        help=f"of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("runs/closed_form"), metavar="DIR",
                        help="models, runs, summary.json, summary.md; models and finished runs found there are used "
                        "again (default: %(default)s)")
    options = parser.parse_args()

    from tests.benchmarks.closed_form.report import (
        all_passed,
        make_comparison_table,
        make_markdown,
        make_summary,
        make_table,
    )
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
    console.print(make_table(world, outcomes), make_comparison_table(outcomes))
    summary = make_summary(world, outcomes)
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (options.folder / "summary.md").write_text(make_markdown(outcomes))
    return 0 if all_passed(summary) else 1


if __name__ == "__main__":
    raise SystemExit(main())
