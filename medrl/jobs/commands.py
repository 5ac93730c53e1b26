"""`medrl submit`, `jobs`, `logs` and `stop`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from medrl.jobs.connect import connect
from medrl.jobs.package import Request, write_package
from medrl.timer import duration

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

    from medrl.jobs.client import Client


def run_submit(request: Request, address: str | None, wait: bool) -> None:
    """Send the job and print its name; with `wait` also its log, and exit as it does.

    Raises ConfigError before anything is sent, ClusterError when the cluster does not take it.
    """
    variables = request.environment()
    with connect(address) as client:
        with tempfile.TemporaryDirectory(prefix="medrl-submit-") as folder:
            write_package(request, Path(folder))
            job = client.submit_job(
                entrypoint=request.entrypoint, submission_id=request.job_id, metadata={"stage": request.stage},
                runtime_env={"working_dir": folder, "env_vars": variables})
        print(f"job {job}", flush=True)
        if wait:
            _follow(client, job)


def run_jobs(address: str | None) -> None:
    """A table of all submitted jobs, the newest last."""
    with connect(address) as client:
        jobs = [job for job in client.list_jobs() if job.submission_id]
    table = Table("job", "stage", "status", "started", "took")
    for job in sorted(jobs, key=lambda job: job.start_time or 0):
        table.add_row(str(job.submission_id), (job.metadata or {}).get("stage", ""), job.status.value, *_times(job))
    Console().print(table)


def run_logs(address: str | None, job: str, follow: bool) -> None:
    """What the job printed; with `follow` until it ends, and then exit as it does."""
    with connect(address) as client:
        if follow:
            _follow(client, job)
        else:
            print(client.get_job_logs(job), end="")


def run_stop(address: str | None, job: str) -> None:
    """Ask the job to end."""
    with connect(address) as client:
        if client.stop_job(job):
            print(f"job {job} is asked to stop; `medrl jobs` says STOPPED when it has")
        else:
            print(f"job {job} had already ended: {client.get_job_status(job).value}")


def _follow(client: Client, job: str) -> None:
    """Print the log until the job ends. SystemExit with the job's own code unless it succeeded."""
    try:
        details = client.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\nthe job goes on: `medrl logs {job} --follow` shows it again, `medrl stop {job}` ends it",
              file=sys.stderr)
        raise
    print(f"job {job}: {details.status.value}", flush=True)
    if details.status != "SUCCEEDED":
        if details.driver_exit_code is None and details.message:  # it did not get as far as a log
            print(details.message, file=sys.stderr)
        sys.exit(details.driver_exit_code or 1)


def _times(job: JobDetails) -> tuple[str, str]:
    if not job.start_time:
        return "", ""
    started = job.start_time / 1000
    end = job.end_time / 1000 if job.end_time else time.time()
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)), duration(end - started)
