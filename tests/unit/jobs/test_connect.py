"""Reaching a cluster's Jobs API, against a dashboard that is made up."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from medrl.errors import ClusterError, ConfigError
from medrl.jobs import client
from medrl.jobs.connect import connect

TOKEN = "the-token-of-the-cluster"


class Dashboard(ThreadingHTTPServer):
    """Answers as Ray's dashboard does: its version, and 401 or 403 when it wants a token."""

    daemon_threads = True
    version, token = ray.__version__, ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization")
        status = 200 if not self.server.token or sent == f"Bearer {self.server.token}" else 403 if sent else 401
        body = {"ray_version": self.server.version} if self.path == "/api/version" else []
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with Dashboard(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")  # the option wins
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")


def test_a_cluster_with_the_same_ray_is_taken(dashboard: Dashboard) -> None:
    with connect(dashboard.url + "/") as found:
        assert found.get_address() == dashboard.url


def test_another_ray_is_refused_with_both_versions(dashboard: Dashboard) -> None:
    dashboard.version = "2.9.1"
    with pytest.raises(ClusterError, match=rf"(?s)Ray {ray.__version__}, as here.*Ray 2\.9\.1"), connect(dashboard.url):
        pass


def test_nobody_there_and_nobody_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and says nothing
        started = time.monotonic()
        for address in (f"http://127.0.0.1:{silent.getsockname()[1]}", "http://127.0.0.1:1"):
            with pytest.raises(ClusterError, match="no cluster answers at"), connect(address):
                pass
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head:8265", "http://"])
def test_what_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="not that of a dashboard"), connect(address):
        pass


def test_a_cluster_that_wants_a_token_and_a_user_without(dashboard: Dashboard) -> None:
    dashboard.token = TOKEN
    with pytest.raises(ClusterError, match="(?s)does not let us in.*auth_token"), connect(dashboard.url):
        pass


@pytest.mark.parametrize(("variables", "code", "said"), [
    ({}, 3, "couldn't find an authentication token"),
    ({"RAY_AUTH_TOKEN": "another"}, 3, "Authentication failed"),
    ({"RAY_AUTH_TOKEN": TOKEN}, 0, ""),
])
def test_a_token_is_shown_unless_it_is_turned_off(
    dashboard: Dashboard, tmp_path: Path, variables: dict[str, str], code: int, said: str
) -> None:
    """In a process of its own: Ray reads its settings once."""
    dashboard.token = TOKEN
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "medrl", "jobs", "--address", dashboard.url], cwd=Path(__file__).parents[3],
        env=clean | {"HOME": str(tmp_path)} | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert TOKEN not in done.stdout + done.stderr
