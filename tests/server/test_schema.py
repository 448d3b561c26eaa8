"""The served schema is true: what schemathesis makes of it is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from server_stubs import RunningServer, make_state, serving

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
    allow_header_conformance,
    negative_data_rejection,
)
OPERATIONS = (
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/health"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/startup"),
    ("GET", "/ping"),
    ("GET", "/load"),
)


@pytest.fixture(scope="module")
def small_server() -> Iterator[RunningServer]:
    with serving(make_state(max_model_len=48)) as running:
        yield running
        running.wait_until_idle()


@pytest.fixture(scope="module")
def schema(small_server: RunningServer) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{small_server.url}/openapi.json")


def test_the_schema_knows_every_operation(schema: BaseSchema) -> None:
    known = {(found.ok().method.upper(), found.ok().path) for found in schema.get_all_operations()}
    assert known == set(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in OPERATIONS
        for mode in GenerationMode
        if method == "POST" or mode is GenerationMode.POSITIVE  # a GET takes nothing that could be wrong
    ],
)
def test_an_operation_answers_as_the_schema_says(
    schema: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=25 if method == "POST" else 3, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "stub"  # else most examples would end at an unknown model
        case.call_and_validate(checks=CHECKS, timeout=20)

    check()
