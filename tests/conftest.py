"""What holds for all tests: nothing leaves the machine, one thread a process, the same examples every time."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch and ray are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

TESTS = Path(__file__).parent

hypothesis.settings.register_profile("medrl", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("medrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of tests/integration needs Ray, vLLM or DeepSpeed."""
    for item in items:
        if TESTS / "integration" in item.path.parents:
            item.add_marker(pytest.mark.ray)
