"""HTTP services."""

from __future__ import annotations

import argparse

from medrl.commands.parsers import OVERRIDES_HELP, Commands


def add_serving(commands: Commands) -> None:
    serve_reward = commands.add(
        "serve-reward", _serve_reward, "serve a reward model over HTTP (protocol: docs/rewards.md)"
    )
    serve_reward.add_argument("source", metavar="CONFIG|MODEL_DIR", help="YAML file, or directory of a reward model")
    serve_reward.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
    serve_reward.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    serve_reward.add_argument("--port", type=int, help="(default: 8000)")
    serve_reward.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key to ask for")
    serve_reward.add_argument("--insecure", action="store_const", const=True,
                              help="listen on other addresses without a key")


def _serve_reward(options: argparse.Namespace) -> None:
    from medrl.config.serving import serve_reward_config

    flags = {name: getattr(options, name) for name in ("host", "port", "api_key_env", "insecure")}
    config = serve_reward_config(options.source, options.overrides, flags)
    from medrl.serving import run_serve_reward

    run_serve_reward(config)
