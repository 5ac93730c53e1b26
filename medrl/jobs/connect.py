"""The way to a cluster's Jobs API: its address, its token, its versions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from medrl.errors import ConfigError

if TYPE_CHECKING:
    from medrl.jobs.client import Client

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


@contextmanager
def connect(address: str | None) -> Iterator[Client]:
    """A client of the cluster whose dashboard is at `address`. What that refuses in the block is a ClusterError.

    Raises ConfigError for an address that is none, ClusterError when nothing answers in time, when there is no token or
    a wrong one, and when the cluster runs another Ray.
    """
    url = (address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--address is not that of a dashboard", limit="http://HOST:8265 or https://HOST", got=url)
    os.environ[ADDRESS_VARIABLE] = url  # Ray prefers this variable, and RAY_ADDRESS, to what it is told
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported
    from medrl.jobs.client import Client, answering

    with answering(url):
        client = Client(url)
        client.check_ray()
        yield client
