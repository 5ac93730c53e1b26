"""Two network namespaces with a wire between them whose delay, loss and cuts are the test's.

It needs root, `ip` and /dev/net/tun, and no kernel module for traffic shaping: the wire is a thread that carries IP
packets from one end to the other. Nothing but the two namespaces can be reached through it.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TUN, SET_INTERFACE, TUN_WITHOUT_HEADER = Path("/dev/net/tun"), 0x400454CA, 0x1001
INTERFACE = "wire"  # its name in both namespaces
ADDRESSES = ("10.77.0.1", "10.77.0.2")
MTU = 1500
QUEUED_PACKETS = 1000  # what is beyond is dropped, as by any queue


class Wire:
    """`delay` (seconds, each way), `loss` (share of the packets) and `cut` may change at any time."""

    def __init__(self, ends: tuple[int, int], seed: int = 0) -> None:
        self.delay, self.loss, self.cut = 0.0, 0.0, False
        self._ends = ends
        self._random = random.Random(seed)
        self._under_way: list[tuple[float, int, int, bytes]] = []  # (when due, number, to which end, packet)
        self._ended = False

    def carry(self) -> None:
        """Until `end`."""
        number = 0
        while not self._ended:
            wait = min(0.1, max(0.0, self._under_way[0][0] - time.monotonic())) if self._under_way else 0.1
            for end in select.select(self._ends, [], [], wait)[0]:
                number += 1
                self._take(end, number)
            while self._under_way and self._under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._under_way)
                if not self.cut:
                    os.write(end, packet)

    def end(self) -> None:
        self._ended = True

    def _take(self, end: int, number: int) -> None:
        packet = os.read(end, MTU)
        if self.cut or self._random.random() < self.loss or len(self._under_way) >= QUEUED_PACKETS:
            return
        other = self._ends[1 - self._ends.index(end)]
        heapq.heappush(self._under_way, (time.monotonic() + self.delay, number, other, packet))


@contextmanager
def wired(namespaces: tuple[str, str]) -> Iterator[Wire]:
    """The namespaces, with ADDRESSES, and the wire between them. Raises OSError where that is not allowed."""
    with ExitStack() as stack:
        ends = tuple(stack.enter_context(_end(name, at)) for name, at in zip(namespaces, ADDRESSES, strict=True))
        wire = Wire(ends)  # type: ignore[arg-type]
        thread = threading.Thread(target=wire.carry, daemon=True)
        thread.start()
        try:
            yield wire
        finally:
            wire.end()
            thread.join()


@contextmanager
def _end(namespace: str, address: str) -> Iterator[int]:
    """A namespace with one interface beside its loopback, whose packets the file descriptor reads and writes."""
    descriptor = os.open(TUN, os.O_RDWR)
    try:
        _ip("netns", "add", namespace)
        try:
            # Made in the namespace we are in, then moved: the descriptor stays with it.
            name = f"wire{descriptor}"
            fcntl.ioctl(descriptor, SET_INTERFACE, struct.pack("16sH22x", name.encode(), TUN_WITHOUT_HEADER))
            _ip("link", "set", name, "netns", namespace)
            _ip("-n", namespace, "link", "set", name, "name", INTERFACE)
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", INTERFACE)
            for interface in (INTERFACE, "lo"):
                _ip("-n", namespace, "link", "set", interface, "up")
            _ip("-n", namespace, "route", "add", "default", "dev", INTERFACE)  # by which Ray finds its own address
            yield descriptor
        finally:
            _ip("netns", "del", namespace)
    finally:
        os.close(descriptor)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"ip {' '.join(words)}: {done.stderr.strip()}")
