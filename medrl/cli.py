"""The `medrl` command. It parses and validates first; torch, ray and the stages are imported only after that."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from medrl.commands.audit import add_audit, add_feedback
from medrl.commands.data import add_data
from medrl.commands.jobs import add_jobs
from medrl.commands.models import add_models
from medrl.commands.parsers import Commands
from medrl.commands.registry import add_registry
from medrl.commands.serving import add_serving
from medrl.commands.stages import add_stages
from medrl.environment import check_environment
from medrl.errors import MedrlError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, a MedrlError's own code, 130 after SIGINT, 143 after SIGTERM."""
    options = parse(arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # in a log file they are noise
    signal.signal(signal.SIGTERM, _terminated)
    try:
        check_environment()
        options.command(options)
    except MedrlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def _terminated(signum: int, _frame: FrameType | None) -> NoReturn:
    # An exception, not the default sudden death: the stages free their workers on the way out.
    sys.exit(128 + signum)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace whose `command` runs it."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse stops collecting overrides at the first option between them, as in `ppo CONFIG --resume steps=3`.
    if unknown := [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medrl", description="Reinforcement learning from human feedback for medical language models, on Ray.")
    commands = Commands(parser)
    add_stages(commands)
    add_jobs(commands)
    add_models(commands)
    add_data(commands)
    add_registry(commands)
    add_audit(commands)
    add_feedback(commands)
    add_serving(commands)
    demo = commands.add(
        "demo", _demo, "run the whole path on a tiny model: pretrain, SFT, reward model, PPO, merge, evaluate"
    )
    demo.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    demo.add_argument("--output-dir", metavar="DIR", default="runs/demo", help="(default: %(default)s)")
    commands.add("config-docs", _config_docs, "print the reference of all config keys, in Markdown")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from medrl.tour.run import run_demo

    run_demo(options.seed, options.output_dir)


def _config_docs(_options: argparse.Namespace) -> None:
    from medrl.config.docs import config_reference

    print(config_reference(), end="")
