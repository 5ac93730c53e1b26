"""Jobs on a Ray cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from medrl.commands.parsers import OVERRIDES_HELP, Command, Commands
from medrl.jobs.stages import RESUMABLE, STAGES


def add_jobs(commands: Commands) -> None:
    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add(name, command, text)
        sub.add_argument("--address", metavar="URL", help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS if "
                         "set, else http://127.0.0.1:8265)")
        return sub

    submit = add("submit", _submit, "run a stage on a Ray cluster, as `medrl STAGE CONFIG` would here")
    submit.add_argument("stage", metavar="STAGE", choices=STAGES, help=", ".join(STAGES))
    submit.add_argument("config", metavar="CONFIG", help="YAML file (keys: docs/config.md)")
    submit.add_argument("overrides", metavar="a.b=value", nargs="*", help=OVERRIDES_HELP)
    submit.add_argument("--name", metavar="ID", help="name of the job (default: the config's name and the time)")
    submit.add_argument("--resume", action="store_true", help="continue from the newest complete checkpoint")
    submit.add_argument("--retries", metavar="N", type=_count, default=0, help="when it fails, start it again up to N "
                        "times, from its newest checkpoint (default: %(default)s)")
    submit.add_argument("--env", metavar="NAME", action="append", default=[], help="environment variable that the job "
                        "gets from here; everyone who may look at the cluster's jobs can read it")
    submit.add_argument("--wait", action="store_true", help="print the log and exit as the job does")
    add("jobs", _jobs, "list the jobs of a Ray cluster")
    logs = add("logs", _logs, "print what a job printed")
    logs.add_argument("--follow", action="store_true", help="go on until it ends, and exit as the job does")
    stop = add("stop", _stop, "end a job in order: PPO saves its last finished step first")
    for sub in (logs, stop):
        sub.add_argument("job", metavar="ID", help="the job's name")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return int(text)


def _submit(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.stages import CONFIGS
    from medrl.errors import ConfigError

    config = load_config(CONFIGS[options.stage], options.config, options.overrides)
    if options.resume and options.stage not in RESUMABLE:
        raise ConfigError(f"{options.stage} has no --resume", limit=f"one of {', '.join(RESUMABLE)}")
    from medrl.jobs.commands import run_submit
    from medrl.jobs.package import Request

    request = Request(options.stage, config, Path(options.config), options.name, options.resume, options.retries,
                      tuple(options.env))
    run_submit(request, options.address, options.wait)


def _jobs(options: argparse.Namespace) -> None:
    from medrl.jobs.commands import run_jobs

    run_jobs(options.address)


def _logs(options: argparse.Namespace) -> None:
    from medrl.jobs.commands import run_logs

    run_logs(options.address, options.job, options.follow)


def _stop(options: argparse.Namespace) -> None:
    from medrl.jobs.commands import run_stop

    run_stop(options.address, options.job)
