"""A running service for clients from outside: one that is named in the environment, or one of the tests' own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import openai
import pytest

from tests.conformance.service import VARIABLE, Service, tiny_service

collect_ignore = [] if VARIABLE in os.environ else ["clients"]  # these need packages that medrl does not


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    if VARIABLE in os.environ:
        yield Service(**json.loads(os.environ[VARIABLE]))
    else:
        with tiny_service(tmp_path_factory.mktemp("conformance")) as running:
            yield running


@pytest.fixture(scope="module")
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0, timeout=120)
