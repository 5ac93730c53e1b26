"""One Ray for each test module, on real components."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chromium import Tab, find_chromium, tab


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local cluster with more logical CPUs than the machine has: roles take turns."""
    from medrl.config.common import RayConfig
    from medrl.workers.cluster import connect

    with connect(RayConfig(num_cpus=12)):
        yield


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny policy, reward model and prompts."""
    from tests.tiny import ppo_values

    folder = tmp_path_factory.mktemp("tiny")
    ppo_values(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab of a headless Chromium."""
    binary = find_chromium()
    if binary is None:
        pytest.skip("needs Chromium: no browser of that family is on PATH")
    with tab(binary, tmp_path_factory.mktemp("profile")) as opened:
        yield opened
