"""How commands enter the parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

OVERRIDES_HELP = "settings that replace those of the file, for example algorithm.kl.coef=0.1"
Command = Callable[[argparse.Namespace], None]


class Commands:
    """The commands of one level. What a command does it imports when it runs: `--help` is instant."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._sub: Any = parser.add_subparsers(title="commands", metavar="<command>", required=True)

    def add(self, name: str, command: Command | None, text: str) -> argparse.ArgumentParser:
        """`command` None: it has commands of its own."""
        parser = self._sub.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if command:
            parser.set_defaults(command=command)
        return parser

    def add_stage(self, name: str, command: Command, text: str) -> argparse.ArgumentParser:
        """A command that takes a YAML file, and settings beside it."""
        parser = self.add(name, command, text)
        parser.add_argument("config", metavar="CONFIG", help="YAML file (keys: docs/config.md)")
        parser.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
        return parser
