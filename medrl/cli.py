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
    ppo = add_stage("ppo", _ppo, "train a policy with PPO against reward models")
    ppo.add_argument("--resume", action="store_true", help="continue from the newest complete checkpoint")
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

    for name, command, text in (
        ("serve", _serve, "serve a language model with the OpenAI API"),
        ("serve-reward", _serve_reward, "serve a reward model over HTTP (protocol: docs/rewards.md)"),
    ):
        service = add(name, command, text)
        service.add_argument("source", metavar="CONFIG|MODEL_DIR", help="YAML file, or directory of the model")
        service.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
        service.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
        service.add_argument("--port", type=int, help="(default: 8000)")
        service.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key to ask for")
        service.add_argument("--insecure", action="store_const", const=True,
                             help="listen on other addresses without a key")

    _add_data_commands(add("data", _data_check, "check, convert, measure or split data files"))

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
        sub.add_argument("--as", dest="kind", choices=("texts", "conversations", "pairs", "prompts"),
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


def _ppo(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.ppo import PpoConfig

    config = load_config(PpoConfig, options.config, options.overrides)
    from medrl.stages.ppo import run_ppo

    run_ppo(config, options.resume)


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


SERVICE_FLAGS = ("host", "port", "api_key_env", "insecure")


def _serve(options: argparse.Namespace) -> None:
    from medrl.config.serving import ServeConfig, service_config

    flags = {name: getattr(options, name) for name in SERVICE_FLAGS}
    config = service_config(ServeConfig, options.source, options.overrides, flags)
    from medrl.serving import run_serve

    run_serve(config)


def _serve_reward(options: argparse.Namespace) -> None:
    from medrl.config.serving import ServeRewardConfig, service_config

    flags = {name: getattr(options, name) for name in SERVICE_FLAGS}
    config = service_config(ServeRewardConfig, options.source, options.overrides, flags)
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


def _demo(options: argparse.Namespace) -> None:
    from medrl.tour.run import run_demo

    run_demo(options.seed, options.output_dir)


def _config_docs(_options: argparse.Namespace) -> None:
    from medrl.config.docs import config_reference

    print(config_reference(), end="")
