"""The `medrl` command. It parses and validates first; torch, ray and the stages are imported only after that."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from medrl.environment import check_environment
from medrl.errors import MedrlError

if TYPE_CHECKING:
    from medrl.config.common import DataChecks

ROW_KINDS = ("texts", "conversations", "pairs", "prompts", "choices", "references", "safety")
OVERRIDES_HELP = "settings that replace those of the file, for example algorithm.kl.coef=0.1"


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
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        return sub

    def add_stage(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        stage = add(name, command, text)
        stage.add_argument("config", metavar="CONFIG", help="YAML file (keys: docs/config.md)")
        stage.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
        return stage

    add_stage("pretrain", _pretrain, "continue pre-training on plain text")
    add_stage("sft", _sft, "fine-tune on conversations")
    add_stage("reward", _reward, "train a reward model on preference pairs")
    add_stage("dpo", _dpo, "train a policy on preference pairs, without reward model or rollouts")
    ppo = add_stage("ppo", _ppo, "train a policy with PPO against reward models")
    ppo.add_argument("--resume", action="store_true", help="continue from the newest complete checkpoint")
    add_stage("evaluate", _evaluate, "measure a model, beside a baseline if one is given")
    add_stage("pipeline", _pipeline, "run several stages as a chain; what is done and unchanged is not done again")
    add_stage("check", _check, "check a PPO config: data, tokenizers, LoRA targets, memory, placement, one tiny step")

    inspect = add("inspect", _inspect, "show a model's modules, what LoRA would train, and the memory it takes")
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

    merge = add("merge", _merge, "merge a LoRA adapter into its base model")
    merge.add_argument("adapter", metavar="ADAPTER", help="adapter directory")
    merge.add_argument("--base", metavar="DIR", help="base model directory (default: the one the adapter names)")
    merge.add_argument("--out", metavar="DIR", required=True, help="where the merged model goes")
    merge.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                       help="dtype of the merged weights (default: %(default)s)")

    report = add("report", _report, "write one HTML page about a run, or about a whole pipeline")
    report.add_argument("folder", metavar="RUN_DIR", help="folder of a run or of a pipeline")
    report.add_argument("--out", metavar="FILE", help="the page (default: report.html in that folder)")

    serve_reward = add("serve-reward", _serve_reward, "serve a reward model over HTTP (protocol: docs/rewards.md)")
    serve_reward.add_argument("source", metavar="CONFIG|MODEL_DIR", help="YAML file, or directory of a reward model")
    serve_reward.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
    serve_reward.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    serve_reward.add_argument("--port", type=int, help="(default: 8000)")
    serve_reward.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key to ask for")
    serve_reward.add_argument("--insecure", action="store_const", const=True,
                              help="listen on other addresses without a key")

    _add_data_commands(add("data", _data_check, "check, convert, measure or split data files"))
    _add_registry_commands(add)

    demo = add("demo", _demo, "run the whole path on a tiny model: pretrain, SFT, reward model, PPO, merge")
    demo.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    demo.add_argument("--output-dir", metavar="DIR", default="runs/demo", help="(default: %(default)s)")

    add("config-docs", _config_docs, "print the reference of all config keys, in Markdown")
    return parser


def _add_data_commands(data: argparse.ArgumentParser) -> None:
    commands = data.add_subparsers(title="commands", metavar="<command>", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
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


def _add_registry_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    register = add("register", _register, "make a trained model the newest version in the registry")
    register.add_argument("run", metavar="RUN", help="model directory, or folder of the run or pipeline that left one")
    register.add_argument("--evaluation", metavar="FILE", help="its evaluation.json (default: the one in RUN)")
    register.add_argument("--trained-by", metavar="DIR",
                          help="folder of the training run (default: looked for around the model)")
    register.add_argument("--no-copy", action="store_true", help="leave the files where they are")
    versions = add("versions", _versions, "list the versions in the registry, and who promoted them")
    versions.add_argument("--json", action="store_true", help="print one JSON document")
    promote = add("promote", _promote, "make a version the champion if it passes the gate")
    promote.add_argument("version", metavar="VERSION", help="number, or candidate")
    promote.add_argument("--force", action="store_true", help="whatever the gate says; needs --reason")
    rollback = add("rollback", _rollback, "make the previous champion the champion again")
    for sub in (promote, rollback):
        sub.add_argument("--reason", metavar="TEXT", help="kept in the history")
    for sub in (register, versions, promote, rollback):
        sub.add_argument("--config", metavar="FILE", help="YAML file of the registry and its gate (default: "
                         "registry.yaml in this folder, else the defaults in docs/config.md)")


def _pretrain(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import PretrainConfig

    config = load_config(PretrainConfig, options.config, options.overrides)
    from medrl.stages.pretrain import run_pretrain

    run_pretrain(config)


def _sft(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import SftConfig

    config = load_config(SftConfig, options.config, options.overrides)
    from medrl.stages.sft import run_sft

    run_sft(config)


def _reward(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import RewardConfig

    config = load_config(RewardConfig, options.config, options.overrides)
    from medrl.stages.reward import run_reward

    run_reward(config)


def _dpo(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import DpoConfig

    config = load_config(DpoConfig, options.config, options.overrides)
    from medrl.stages.dpo import run_dpo

    run_dpo(config)


def _ppo(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.ppo import PpoConfig

    config = load_config(PpoConfig, options.config, options.overrides)
    from medrl.stages.ppo import run_ppo

    run_ppo(config, options.resume)


def _evaluate(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.evaluate import EvaluateConfig

    config = load_config(EvaluateConfig, options.config, options.overrides)
    from medrl.stages.evaluate import run_evaluate

    run_evaluate(config)


def _pipeline(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.pipeline import PipelineConfig

    config = load_config(PipelineConfig, options.config, options.overrides)
    from medrl.pipeline.run import run_pipeline

    run_pipeline(config, Path(options.config).parent)


def _check(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.ppo import PpoConfig

    config = load_config(PpoConfig, options.config, options.overrides)
    from medrl.check import run_check

    run_check(config)


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


def _serve_reward(options: argparse.Namespace) -> None:
    from medrl.config.serving import serve_reward_config

    flags = {name: getattr(options, name) for name in ("host", "port", "api_key_env", "insecure")}
    config = serve_reward_config(options.source, options.overrides, flags)
    from medrl.serving import run_serve_reward

    run_serve_reward(config)


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


def _register(options: argparse.Namespace) -> None:
    from medrl.registry.commands import run_register

    run_register(options.config, options.run, options.evaluation, options.trained_by, not options.no_copy)


def _versions(options: argparse.Namespace) -> None:
    from medrl.registry.commands import run_versions

    run_versions(options.config, options.json)


def _promote(options: argparse.Namespace) -> None:
    from medrl.registry.commands import run_promote

    run_promote(options.config, options.version, options.force, options.reason)


def _rollback(options: argparse.Namespace) -> None:
    from medrl.registry.commands import run_rollback

    run_rollback(options.config, options.reason)


def _demo(options: argparse.Namespace) -> None:
    from medrl.tour.run import run_demo

    run_demo(options.seed, options.output_dir)


def _config_docs(_options: argparse.Namespace) -> None:
    from medrl.config.docs import config_reference

    print(config_reference(), end="")
