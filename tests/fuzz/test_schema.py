"""Requests made from the OpenAPI description, right and wrong: what schemathesis thinks of, against the served API."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from segue.router.limits import Limits
from segue.router.openai.openapi import describe
from tests.fuzz.inputs import COUNT, SEED
from tests.fuzz.test_http import EXPECTED

API = schemathesis.openapi.from_dict(describe(Limits()))
OPERATIONS: list[Any] = [result.ok() for result in API.get_all_operations()]  # type: ignore[union-attr]
MODES = schemathesis.GenerationMode


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")
        for operation in OPERATIONS
        for mode in MODES
        # What has no fields and takes any path can't be asked for wrongly.
        if operation.method == "post" or mode is MODES.POSITIVE
    ],
)
def test_requests_from_the_description(served: str, operation: Any, mode: schemathesis.GenerationMode) -> None:
    """What the description allows and what it forbids are both answered as it says."""
    with requests.Session() as session:

        @seed(SEED)
        @settings(
            max_examples=COUNT // 20 or 15,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def send(data: st.DataObject) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            response = case.call(base_url=served, session=session, timeout=20)
            assert response.status_code in EXPECTED, (case.as_curl_command(), response.text[:500])
            if response.status_code >= 400 and response.request.method != "HEAD":
                assert set(response.json()) == {"error"}, response.text[:500]

        send()
