"""Run as a program: copies a model into a registry's store, each time killed one system call later.

`python -m tests.unit.registry.killed_copies MODEL ROOT` leaves the stores ROOT/0, ROOT/1, …, and prints how many.
"""

from __future__ import annotations

import sys
from pathlib import Path

from medrl.registry.files import keep_copy
from medrl.registry.lineage import describe
from tests.unit.killing import kill_everywhere

if __name__ == "__main__":
    model, root = map(Path, sys.argv[1:])
    record = describe(model)
    print(kill_everywhere(root, lambda store: store.mkdir(parents=True), lambda store: keep_copy(model, record, store)))
