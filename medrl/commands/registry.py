"""The registry of model versions."""

from __future__ import annotations

import argparse

from medrl.commands.parsers import Commands


def add_registry(commands: Commands) -> None:
    register = commands.add("register", _register, "make a trained model the newest version in the registry")
    register.add_argument("run", metavar="RUN", help="model directory, or folder of the run or pipeline that left one")
    register.add_argument("--evaluation", metavar="FILE", help="its evaluation.json (default: the one in RUN)")
    register.add_argument("--trained-by", metavar="DIR",
                          help="folder of the training run (default: looked for around the model)")
    register.add_argument("--no-copy", action="store_true", help="leave the files where they are")
    versions = commands.add("versions", _versions, "list the versions in the registry, and who promoted them")
    versions.add_argument("--json", action="store_true", help="print one JSON document")
    promote = commands.add("promote", _promote, "make a version the champion if it passes the gate")
    promote.add_argument("version", metavar="VERSION", help="number, or candidate")
    promote.add_argument("--force", action="store_true", help="whatever the gate says; needs --reason")
    rollback = commands.add("rollback", _rollback, "make the previous champion the champion again")
    for sub in (promote, rollback):
        sub.add_argument("--reason", metavar="TEXT", help="kept in the history")
    for sub in (register, versions, promote, rollback):
        sub.add_argument("--config", metavar="FILE", help="YAML file of the registry and its gate (default: "
                         "registry.yaml in this folder, else the defaults in docs/config.md)")


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
