"""Whatever the OpenAPI document allows, and what it does not: no answer is a failure of ours."""

from __future__ import annotations

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from serving import WAIT_S, plain_service

CHECKED = [
    check
    for check in CHECKS.get_all()
    if check.__name__
    in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    )
]


@pytest.fixture(scope="module")
def url(tiny_model_path):
    with plain_service(tiny_model_path, stream_idle_timeout_s=2, max_pixels=100_000) as address:
        yield address


def fuzz(url, max_examples):
    """Calls every operation so many times with what its description allows and with what it does not."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    calls = 0
    for operation in operations:
        for mode in GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=cases)
            def call(case):
                nonlocal calls
                calls += 1
                # A deadline of a millisecond is rightly answered with a 504.
                (case.headers or {}).pop("X-Request-Timeout-Ms", None)
                case.call_and_validate(checks=CHECKED, timeout=WAIT_S)

            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong where nothing is given
                call()
    return calls, len(operations)


def test_no_request_is_answered_with_a_failure_of_ours(url):
    calls, operations = fuzz(url, 5)
    assert calls > operations >= 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_requests_are_answered_without_a_failure_of_ours(url):
    calls, _ = fuzz(url, 400)
    assert calls >= 5000
