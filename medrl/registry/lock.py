"""One command at a time: a lock on a file, free again when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrl.errors import RegistryError


@contextmanager
def locked(file: Path, timeout: float) -> Iterator[None]:
    """Hold the lock `file` (made when missing). RegistryError when another process keeps it longer than `timeout` s."""
    deadline = time.monotonic() + timeout
    with file.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RegistryError(f"another command works on the registry: {file} is locked",
                                        limit=f"free within {timeout:g} s", remedy="try again later") from None
                time.sleep(0.05)
        yield
