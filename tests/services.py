"""Commands that serve, started as a user starts them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass
class Running:
    """The command's process, the line it said when it was ready, and where it listens."""

    process: subprocess.Popen[str]
    said: str
    url: str


@contextmanager
def running_service(command: list[str], environment: Mapping[str, str]) -> Iterator[Running]:
    """`medrl <command>` at a free port, once it says that it is ready; ended with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "medrl", *command, f"--port={port}"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    assert process.stdout
    try:
        url = f"http://127.0.0.1:{port}"
        said = process.stdout.readline()
        assert url in said, "the command ended before it was ready"
        yield Running(process, said, url)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
