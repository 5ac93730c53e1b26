"""No engine outlives the replica it belongs to: a leftover one would keep its memory, on a GPU too."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process as soon as the one that spawned it has died, by SIGKILL too. Nothing in one not spawned."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="end-with-parent", daemon=True).start()
