"""The record of served answers, and what users said of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from medrl.commands.parsers import OVERRIDES_HELP, Command, Commands

if TYPE_CHECKING:
    from medrl.config.audit import AuditConfig


def add_audit(commands: Commands) -> None:
    below = Commands(commands.add("audit", None, "verify, show or export the record of served answers"))

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = below.add(name, command, text)
        sub.add_argument("--config", metavar="FILE", help="YAML file with a section `audit` (default: its defaults)")
        return sub

    verify = add("verify", _audit_verify, "walk the chain; exit with 3 and name the first record that is wrong")
    verify.add_argument("--head", metavar="LENGTH:HASH", help="what an earlier verify printed; must still be there")
    show = add("show", _audit_show, "print the records of a request")
    show.add_argument("request_id", metavar="REQUEST_ID")
    export = add("export", _audit_export, "print the records; they hold no text of prompts or answers")
    export.add_argument("--since", metavar="TIME", help="first time, ISO 8601 (UTC unless it says so)")
    export.add_argument("--until", metavar="TIME", help="time to stop before")
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="(default: %(default)s)")
    for sub in (verify, show, export):
        sub.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)


def add_feedback(commands: Commands) -> None:
    below = Commands(commands.add("feedback", None, "turn what users said of answers into training data"))
    export = below.add("export", _feedback_export, "write the preference pairs of consented feedback")
    export.add_argument("--config", metavar="FILE", help="YAML file with a section `feedback` (default: its defaults)")
    export.add_argument("out", metavar="OUT.jsonl", help="the new file: data for `medrl reward` and `medrl dpo`")
    export.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)


def _audit_verify(options: argparse.Namespace) -> None:
    from medrl.audit.commands import run_verify

    run_verify(_audit_config(options), options.head)


def _audit_show(options: argparse.Namespace) -> None:
    from medrl.audit.commands import run_show

    run_show(_audit_config(options), options.request_id)


def _audit_export(options: argparse.Namespace) -> None:
    from medrl.audit.commands import run_export

    run_export(_audit_config(options), options.since, options.until, options.format)


def _audit_config(options: argparse.Namespace) -> AuditConfig:
    from medrl.config.audit import AuditSection
    from medrl.config.base import load_config

    return load_config(AuditSection, options.config, options.overrides).audit


def _feedback_export(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.feedback import FeedbackSection

    config = load_config(FeedbackSection, options.config, options.overrides).feedback
    from medrl.feedback import run_export

    run_export(config, options.out)
