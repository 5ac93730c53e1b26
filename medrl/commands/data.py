"""`medrl data`: what is in data files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from medrl.commands.parsers import Command, Commands

if TYPE_CHECKING:
    from medrl.config.common import DataChecks

ROW_KINDS = ("texts", "conversations", "pairs", "prompts", "choices", "references", "safety")


def add_data(commands: Commands) -> None:
    below = Commands(commands.add("data", None, "check, convert, measure or split data files"))

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = below.add(name, command, text)
        sub.add_argument("files", metavar="FILE", nargs="+",
                         help="data file, directory or hub dataset (formats: docs/data-formats.md)")
        sub.add_argument("--as", dest="kind", choices=ROW_KINDS,
                         help="what the rows are to be (default: recognised from the first ones)")
        return sub

    def add_skip(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--on-bad-row", choices=("error", "skip"), default="error", help="(default: %(default)s)")
        sub.add_argument("--max-bad-rows", metavar="N", type=int, default=100,
                         help="how many may be skipped (default: %(default)s)")

    check = add("check", _data_check, "check every row; exit with 2 if one cannot be used")
    check.add_argument("--against", metavar="FILE", help="report prompts that are in this data too (train/test leaks)")
    check.add_argument("--show", metavar="N", type=int, default=20, help="problems to list (default: %(default)s)")
    convert = add("convert", _data_convert, "write rows of any format as JSONL in medrl's own")
    convert.add_argument("--out", metavar="FILE", required=True, help="the new .jsonl file")
    add_skip(convert)
    stats = add("stats", _data_stats, "count rows, turns, characters, tokens and repeated rows")
    stats.add_argument("--tokenizer", metavar="DIR", help="count tokens with this model's tokenizer and chat template")
    split = add("split", _data_split, "part rows into train.jsonl and heldout.jsonl with no prompt on both sides")
    split.add_argument("--out", metavar="DIR", required=True, help="where the two files go")
    split.add_argument("--fraction", type=float, default=0.1, help="share of prompts held out (default: %(default)s)")
    split.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    add_skip(split)


def _data_check(options: argparse.Namespace) -> None:
    from medrl.data.check import run_data_check

    run_data_check(options.files, options.kind, options.against, options.show)


def _data_convert(options: argparse.Namespace) -> None:
    from medrl.data.convert import run_convert

    run_convert(options.files, options.out, options.kind, _data_checks(options))


def _data_stats(options: argparse.Namespace) -> None:
    from medrl.data.stats import run_stats

    run_stats(options.files, options.kind, options.tokenizer)


def _data_split(options: argparse.Namespace) -> None:
    from medrl.data.convert import run_split

    run_split(options.files, options.out, options.kind, options.fraction, options.seed, _data_checks(options))


def _data_checks(options: argparse.Namespace) -> DataChecks:
    from medrl.config.base import build_config
    from medrl.config.common import DataChecks

    return build_config(DataChecks, {"on_bad_row": options.on_bad_row, "max_bad_rows": options.max_bad_rows})
