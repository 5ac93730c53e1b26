"""Ray's client of the Jobs API with a limit on every wait, and errors that say what to do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import ray
import requests
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from medrl.errors import ClusterError

for _name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.WARNING)  # they tell of every upload and connection

TIMEOUT_S = 20.0  # one request
SILENCE_S = 60.0  # a job that prints nothing for so long is asked after
POLL_S = 0.5


class Client(JobSubmissionClient):
    """Requests end after TIMEOUT_S. Errors are Ray's own until `answering` translates them."""

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        return super()._do_request(*arguments, **options, timeout=TIMEOUT_S)

    def check_ray(self) -> None:
        """ClusterError unless the cluster runs the Ray that is installed here."""
        found = self._server_ray_version
        if found != ray.__version__:
            raise ClusterError(
                "the cluster runs another Ray", limit=f"Ray {ray.__version__}, as here", got=f"Ray {found}",
                remedy=f"use an environment with Ray {found}, or start the cluster with {ray.__version__}")

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobDetails:
        """Hand what the job prints to `write` until it has ended."""
        shown = 0
        while True:
            shown = asyncio.run(self._tail(job_id, write, shown))
            details = self.get_job_info(job_id)
            if details.status.is_terminal():
                write(self.get_job_logs(job_id)[shown:])
                return details
            time.sleep(POLL_S)

    async def _tail(self, job_id: str, write: Callable[[str], None], shown: int) -> int:
        """Write what comes after the first `shown` characters of the log until the connection ends or falls silent.

        Returns how many characters have been shown by then.
        """
        position, chunks = 0, self.tail_job_logs(job_id)
        try:
            while True:
                chunk = await asyncio.wait_for(anext(chunks), SILENCE_S)
                write(chunk[max(0, shown - position):])
                position += len(chunk)
                shown = max(shown, position)
        except (StopAsyncIteration, TimeoutError, RuntimeError, aiohttp.ClientError):
            return shown


@contextmanager
def answering(url: str) -> Iterator[None]:
    """What the cluster refuses, or does not answer, inside the block becomes a ClusterError."""
    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"the cluster at {url} does not let us in", limit="the cluster's token", got=error.message.splitlines()[0],
            remedy="put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH; for a "
                   "cluster without tokens set RAY_AUTH_MODE=disabled") from None
    except (requests.RequestException, ConnectionError) as error:
        raise ClusterError(
            f"no cluster answers at {url}", limit=f"an answer within {TIMEOUT_S:g} s", got=type(error).__name__,
            remedy="check --address: it is the dashboard's (port 8265), maybe behind an SSH tunnel") from None
    except RuntimeError as error:
        raise ClusterError("the cluster refused the request", got=_last_line(str(error))) from None


def _last_line(text: str) -> str:
    """Ray answers with a traceback, whose last line says what is wrong."""
    return next((line for line in reversed(text.splitlines()) if line.strip(" .")), text)[:500]
