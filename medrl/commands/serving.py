"""HTTP services."""

from __future__ import annotations

import argparse
import sys

from medrl.commands.parsers import OVERRIDES_HELP, Commands

FLAGS = ("host", "port", "api_key_env", "insecure")


def add_serving(commands: Commands) -> None:
    for name, command, text in (
        ("serve", _serve, "serve a language model with the OpenAI API"),
        ("serve-reward", _serve_reward, "serve a reward model over HTTP (protocol: docs/rewards.md)"),
    ):
        service = commands.add(name, command, text)
        service.add_argument("source", metavar="CONFIG|MODEL_DIR", help="YAML file, or directory of the model")
        service.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
        service.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
        service.add_argument("--port", type=int, help="(default: 8000)")
        service.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key to ask for")
        service.add_argument("--insecure", action="store_const", const=True,
                             help="listen on other addresses without a key")
    key = commands.add("key", _key, "make an API key: it to standard error, its entry for `keys` to standard output")
    key.add_argument("id", metavar="ID", help="public name of the key, in the audit and the metrics")
    key.add_argument("--scopes", nargs="+", choices=("infer", "admin"), default=["infer"], help="(default: infer)")


def _serve(options: argparse.Namespace) -> None:
    from medrl.config.serving import ServeConfig, service_config

    config = service_config(ServeConfig, options.source, options.overrides, _flags(options))
    from medrl.serving import run_serve

    run_serve(config)


def _serve_reward(options: argparse.Namespace) -> None:
    from medrl.config.serving import ServeRewardConfig, service_config

    config = service_config(ServeRewardConfig, options.source, options.overrides, _flags(options))
    from medrl.serving import run_serve_reward

    run_serve_reward(config)


def _key(options: argparse.Namespace) -> None:
    from medrl.config.keys import make_key

    key, entry = make_key(options.id, options.scopes)
    print(entry, end="", flush=True)
    print(f"the key, shown this once: {key}", file=sys.stderr)


def _flags(options: argparse.Namespace) -> dict[str, object]:
    return {name: getattr(options, name) for name in FLAGS}
