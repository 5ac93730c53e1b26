from __future__ import annotations

import pytest

from medrl.demo.facts import Condition, load_conditions
from medrl.demo.world import build_world


@pytest.fixture(scope="session")
def conditions() -> list[Condition]:
    return load_conditions()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """(directory, what build_world returned)"""
    path = tmp_path_factory.mktemp("world")
    return path, build_world(path, seed=0)
