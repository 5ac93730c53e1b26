"""What holds for all tests: nothing leaves the machine, one thread a process, the same examples every time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Before torch and ray are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("SAGEMAKER_CONTAINER_LOG_LEVEL", "WARNING")  # see serve/quiet_logs.py

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from sqlalchemy import create_engine  # noqa: E402

from tests.postgres import postgres_server  # noqa: E402

TESTS = Path(__file__).parent

hypothesis.settings.register_profile("medrl", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("medrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of tests/integration needs Ray, vLLM or DeepSpeed."""
    for item in items:
        if TESTS / "integration" in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of the tests' own."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/store.db"
    server = create_engine(request.getfixturevalue("postgres").replace("postgresql:", "postgresql+psycopg:"),
                           isolation_level="AUTOCOMMIT")
    name = f"d{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    server.dispose()
    return request.getfixturevalue("postgres").replace("/postgres?", f"/{name}?")
