"""Looking at models and runs, and merging adapters."""

from __future__ import annotations

import argparse

from medrl.commands.parsers import Commands


def add_models(commands: Commands) -> None:
    inspect = commands.add(
        "inspect", _inspect, "show a model's modules, what LoRA would train, and the memory it takes"
    )
    inspect.add_argument("source", metavar="MODEL|CONFIG",
                         help="model directory (config.json is enough), cached hub id, or a stage's YAML")
    inspect.add_argument("--targets", nargs="+", metavar="TARGET", help="roles or patterns (default: the config's)")
    inspect.add_argument("--match", choices=("exact", "subtree", "regex", "suffix"), help="how patterns are read")
    inspect.add_argument("--task", choices=("causal", "scalar"), default="causal",
                         help="language model or reward model (default: %(default)s)")
    inspect.add_argument("--batch", type=int, default=1, metavar="N", help="sequences (default: %(default)s)")
    inspect.add_argument("--length", type=int, default=2048, metavar="N", help="tokens each (default: %(default)s)")
    inspect.add_argument("--dry-run", action="store_true", help="try a one-layer model with random weights")
    inspect.add_argument("--json", action="store_true", help="print one JSON document")

    merge = commands.add("merge", _merge, "merge a LoRA adapter into its base model")
    merge.add_argument("adapter", metavar="ADAPTER", help="adapter directory")
    merge.add_argument("--base", metavar="DIR", help="base model directory (default: the one the adapter names)")
    merge.add_argument("--out", metavar="DIR", required=True, help="where the merged model goes")
    merge.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                       help="dtype of the merged weights (default: %(default)s)")

    report = commands.add("report", _report, "write one HTML page about a run, or about a whole pipeline")
    report.add_argument("folder", metavar="RUN_DIR", help="folder of a run or of a pipeline")
    report.add_argument("--out", metavar="FILE", help="the page (default: report.html in that folder)")


def _inspect(options: argparse.Namespace) -> None:
    from medrl.config.inspect import inspect_config

    config = inspect_config(options.source, options.targets, options.match, task=options.task, batch=options.batch,
                            length=options.length)
    from medrl.inspect import run_inspect

    run_inspect(config, options.json, options.dry_run)


def _merge(options: argparse.Namespace) -> None:
    from medrl.stages.merge import run_merge

    run_merge(options.adapter, options.base, options.out, options.dtype)


def _report(options: argparse.Namespace) -> None:
    from medrl.report.page import run_report

    run_report(options.folder, options.out)
