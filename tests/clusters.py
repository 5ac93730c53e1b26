"""Ray clusters of several raylets on this machine, with token authentication, and medrl's commands against them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
START_S = 240.0  # for a cluster on a machine that is busy
COMMAND_S = 300.0  # for a command that waits for its job


@dataclass
class Cluster:
    """A running cluster. `process` is what all of its processes descend from."""

    environment: dict[str, str]
    address: str  # of Ray itself
    process: psutil.Process

    @property
    def driver(self) -> dict[str, str]:
        """What a driver outside of a job needs besides: it runs on this machine, on the loopback interface."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

    def medrl(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "medrl", *words, **environment)

    def python(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], cwd=ROOT, env=self.environment | environment,
                              capture_output=True, text=True, timeout=COMMAND_S)

    def processes(self, title: str) -> list[psutil.Process]:
        """Those with this in the command line: `ray::RolloutWorker`, or `ray::RolloutWorker.generate` while it does."""
        return [process for process in self.process.children(recursive=True) if title in command_line(process)]


def command_line(process: psutil.Process) -> str:
    """Empty when the process is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Raylets(Cluster):
    """A cluster whose nodes come and go. A node is known by the pid of its raylet."""

    def __init__(self, *arguments: Any, pipe: subprocess.Popen[str]) -> None:
        super().__init__(*arguments)
        self.nodes: set[int] = set()  # but the head
        self._pipe = pipe

    def add(self, num_cpus: int, label: str) -> int:
        """One more node, labelled medrl=`label`."""
        node = self._ask({"add": {"num_cpus": num_cpus, "labels": {"medrl": label}}})
        self.nodes.add(node)
        return node

    def kill(self, node: int) -> None:
        """SIGKILL to the raylet and nothing else."""
        self.nodes.remove(self._ask({"kill": node}))

    def remove(self, node: int) -> None:
        """End all of the node's processes, as a scale-down does."""
        self.nodes.remove(self._ask({"remove": node}))

    def _ask(self, command: dict[str, Any]) -> int:
        assert self._pipe.stdin and self._pipe.stdout
        self._pipe.stdin.write(json.dumps(command) + "\n")
        self._pipe.stdin.flush()
        return json.loads(self._pipe.stdout.readline())["node"]


@contextmanager
def local_cluster(home: Path, nodes: int, cpus: int) -> Iterator[Cluster]:
    """`cluster/local.sh`, as people start it."""
    environment, port = cluster_environment(home)
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(["bash", ROOT / "cluster/local.sh", str(nodes), str(cpus)], env=environment,
                                   stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait_until(lambda: f"{nodes} nodes with" in log.read_text(), process, log, START_S)
            yield Cluster(environment, f"127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


@contextmanager
def raylets(home: Path, cpus: int, label: str) -> Iterator[Raylets]:
    """A cluster that has a head node only, labelled medrl=`label`; tests add the others."""
    environment, port = cluster_environment(home)
    environment |= {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    words = [sys.executable, "-m", "tests.raylets", str(port), environment["DASHBOARD_PORT"], str(cpus), label]
    with (home / "log").open("w") as log:
        pipe = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=log, text=True, start_new_session=True)
        try:
            assert pipe.stdin and pipe.stdout
            assert pipe.stdout.readline(), (home / "log").read_text()
            yield Raylets(environment, f"127.0.0.1:{port}", psutil.Process(pipe.pid), pipe=pipe)
        finally:
            pipe.stdin.close()  # type: ignore[union-attr]
            pipe.wait(timeout=60)


def cluster_environment(home: Path) -> tuple[dict[str, str], int]:
    """Variables for a cluster and its users, with a token and free ports of their own; and the port of Ray itself."""
    port, dashboard = free_ports(2)
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {"HOME": str(home), "PORT": str(port), "DASHBOARD_PORT": str(dashboard), "PYTHON": sys.executable}
    own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"  # jobs run `python`
    own |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", "RAY_USAGE_STATS_ENABLED": "0"}
    return own, port


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """For Ray's sockets, whose paths must be short."""
    return tempfile.TemporaryDirectory(prefix="medrl-", dir="/tmp", ignore_cleanup_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until(
    condition: Callable[[], Any], process: subprocess.Popen[Any], log: Path, seconds: float, pause: float = 0.05
) -> Any:
    """What `condition` gives once that is true; fails with the log when `process` ends before, or time is up."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, f"it ended too early:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"it did not get that far:\n{log.read_text()}"
        time.sleep(pause)
    return found


@contextmanager
def submitted(cluster: Cluster, config: Path, log: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`medrl submit ppo CONFIG --wait`, its output in `log`; ended with its job when the block ends early."""
    command = [sys.executable, "-m", "medrl", "submit", "ppo", str(config), "--name", config.stem, "--wait", *words]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT,
                                   text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                cluster.medrl("stop", config.stem)


def finished(process: subprocess.Popen[str], log: Path, seconds: float) -> str:
    """What the command printed; fails unless it ends with 0 in time."""
    process.wait(timeout=seconds)
    assert process.returncode == 0, log.read_text()
    return log.read_text()
