"""The OpenAPI document against the routes it is made from, and against OpenAPI's own rules."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from shoal.http import openapi, problems
from shoal.http.service import ROUTES
from shoal.types import Limits

DOCUMENT: dict[str, Any] = json.loads(openapi.document(ROUTES, Limits()))
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def references(value: Any) -> set[str]:
    """All `$ref` inside a value."""
    if isinstance(value, dict):
        found = {value["$ref"]} if "$ref" in value else set()
        return found.union(*(references(inner) for inner in value.values()))
    return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()


def test_the_document_has_every_route_and_no_other() -> None:
    routes = {(route.method.lower(), path) for route in ROUTES for path in route.paths()}
    assert {(method, path) for method, path, _ in OPERATIONS} == routes


def test_no_two_routes_are_the_same() -> None:
    served = [(route.method, path) for route in ROUTES for path in route.paths()]
    assert len(set(served)) == len(served)
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]


def test_names_of_schemas_are_allowed_ones() -> None:
    for name in DOCUMENT["components"]["schemas"]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=lambda value: str(value)[:60])
def test_each_operation_is_whole(method: str, path: str, operation: dict[str, Any]) -> None:
    """All path parameters, no parameter twice, a success, the problems everybody may meet, and no others than ours."""
    parameters = [(each["in"], each["name"]) for each in operation["parameters"]]
    assert len(set(parameters)) == len(parameters)
    assert {name for place, name in parameters if place == "path"} == set(re.findall(r"\{(\w+)\}", path))
    responses = operation["responses"]
    assert any(status.startswith("2") for status in responses)
    assert {"400", "429", "500", "503"} <= responses.keys()
    known = {*map(str, problems.STATUS.values()), "408", "412"}
    assert {status for status in responses if not status.startswith("2")} <= known
    if "requestBody" in operation:
        assert {"408", "413", "415"} <= responses.keys()
    without_body = {"/v1/stores/{store}", "/v1/verify"}
    assert ("requestBody" in operation) is (
        method in {"post", "put", "patch"} and path not in without_body and not path.endswith("/replay")
    )


def test_limits_are_those_of_the_configuration() -> None:
    document = json.loads(openapi.document(ROUTES, Limits(page_events=77, stream_id_bytes=33)))
    parameters = {
        each["name"]: each for each in document["paths"]["/v1/streams/{stream_id}"]["get"]["parameters"]
    }
    assert parameters["limit"]["schema"]["maximum"] == 77
    assert parameters["stream_id"]["schema"]["maxLength"] == 33


def test_what_a_pull_and_a_replay_take_is_limited_as_configured() -> None:
    """A pull has the default of a page, a replay has none: all."""
    document = json.loads(openapi.document(ROUTES, Limits(page_events=77)))
    count = document["components"]["schemas"]["SentPull"]["properties"]["count"]
    assert (count["maximum"], count["default"]) == (77, 77)
    path = "/v1/subscriptions/{name}/parked/replay"
    limit = next(
        each["schema"] for each in document["paths"][path]["post"]["parameters"] if each["name"] == "limit"
    )
    assert limit["maximum"] == 77
    assert "default" not in limit


def test_what_goes_on_without_an_end_is_negotiated_though_it_has_one_form() -> None:
    live = [operation for _, path, operation in OPERATIONS if path.endswith("/{name}/events")]
    assert live
    for operation in live:
        assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]
        assert "406" in operation["responses"]


def test_parameters_say_what_the_code_checks() -> None:
    parameters = {
        each["name"]: each for each in DOCUMENT["paths"]["/v1/streams/{stream_id}"]["get"]["parameters"]
    }
    assert parameters["direction"]["schema"]["enum"] == ["backward", "forward"]
    assert parameters["limit"]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10_000,
        "default": 100,
    }
    assert parameters["from"]["schema"] == {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
