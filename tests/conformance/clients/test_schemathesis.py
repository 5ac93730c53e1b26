"""Schemathesis: requests made from the app's own OpenAPI document, none of which may fail on the server's side."""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from tests.conformance.service import VARIABLE

SERVICE: dict[str, Any] = json.loads(os.environ[VARIABLE])
# Routes on which vLLM itself answers 5xx to some request that its schema allows.
VLLMS_OWN = {"/v1/systemone": {501}}  # no structured decisions with this kind of model

schema = schemathesis.openapi.from_path(SERVICE["openapi"])


@schema.parametrize()
# Without Phase.explicit: every boundary of every field of a chat request in turn would be some 15,000 requests.
@settings(max_examples=30, deadline=None, derandomize=True, phases=(Phase.generate, Phase.shrink),
          suppress_health_check=list(HealthCheck))
def test_no_request_fails_on_the_servers_side(case: schemathesis.Case) -> None:
    headers = {"Authorization": f"Bearer {SERVICE['key']}"}
    answer = case.call(base_url=SERVICE["url"], headers=headers, timeout=120)
    allowed = VLLMS_OWN.get(case.operation.path, set())
    assert answer.status_code < 500 or answer.status_code in allowed, (answer.status_code, answer.text[:300])
