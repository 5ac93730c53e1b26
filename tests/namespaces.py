"""A Ray cluster of two nodes in network namespaces of their own, with a wire between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.clusters import ROOT, START_S, cluster_environment, short_folder, wait_until
from tests.wire import ADDRESSES, INTERFACE, Wire, wired


@dataclass(frozen=True)
class Pair:
    """The head node is in the first namespace, and so are drivers; the other node is in the second."""

    wire: Wire
    environment: dict[str, str]
    address: str  # of Ray itself
    namespace: str  # the head's

    def start(self, log: Path, *words: str) -> subprocess.Popen[str]:
        """A Python program beside the head node, its output in `log`."""
        return spawn(self.namespace, self.environment, log, sys.executable, *words)


@contextmanager
def pair_of_nodes(home: Path, cpus: int) -> Iterator[Pair]:
    """Two nodes with that many CPUs each. Raises OSError where namespaces are not allowed."""
    environment, port = cluster_environment(home)
    environment |= {"RAY_AUTH_MODE": "token", "GLOO_SOCKET_IFNAME": INTERFACE}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    names, ray = (f"medrl-{port}-0", f"medrl-{port}-1"), [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run([*ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    with ExitStack() as stack:
        wire = stack.enter_context(wired(names))
        folder = stack.enter_context(short_folder())
        start = [*ray, "start", "--block", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        joins = (["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"],
                 [f"--address={ADDRESSES[0]}:{port}"])
        for name, own, join in zip(names, ADDRESSES, joins, strict=True):
            stack.callback(end_processes, name)
            log = home / f"{name}.log"
            node = spawn(name, environment, log, *start, *join, f"--node-ip-address={own}")
            wait_until(lambda log=log: "Ray runtime started" in log.read_text(), node, log, START_S)
        yield Pair(wire, environment, f"{ADDRESSES[0]}:{port}", names[0])


def spawn(namespace: str, environment: dict[str, str], log: Path, *command: str) -> subprocess.Popen[str]:
    with log.open("w") as output:
        return subprocess.Popen(["ip", "netns", "exec", namespace, *command], cwd=ROOT, env=environment, stdout=output,
                                stderr=subprocess.STDOUT, text=True, start_new_session=True)


def end_processes(namespace: str) -> None:
    """Kill whatever runs in the namespace: nothing that is not the test's can."""
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
    processes = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)
