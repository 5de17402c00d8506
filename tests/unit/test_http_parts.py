"""The parts of HTTP that need no socket: problems, parameters, media types, routes, board levels."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from shoal import errors
from shoal.errors import InvalidRequest, NotAcceptable, NotFound, ShoalError, UnsupportedMediaType
from shoal.http import params, problems
from shoal.http.board import level_of, read_health
from shoal.http.negotiation import NDJSON, PLAIN, SSE, answer_type, body_type
from shoal.http.problems import MethodNotAllowed
from shoal.http.routing import Answer, Route, Router
from shoal.types import CBOR, JSON


def tree(root: type[ShoalError]) -> Iterator[type[ShoalError]]:
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield child
            yield from tree(child)


ALL_ERRORS = list(tree(ShoalError))


# --- problems


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.code)
def test_every_error_has_a_status(kind: type[ShoalError]) -> None:
    assert kind.code in problems.STATUS


def test_every_status_belongs_to_an_error() -> None:
    assert set(problems.STATUS) == {kind.code for kind in ALL_ERRORS}


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.code)
def test_every_error_becomes_a_whole_problem_document(kind: type[ShoalError]) -> None:
    arguments = {
        name: 7 if parameter.annotation == "int" else "x"
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    error = kind(**arguments)
    document = json.loads(problems.encode(error))
    assert document["type"] == f"urn:shoal:problem:{kind.code}"
    assert document["code"] == kind.code
    assert document["status"] == problems.respond(error).status == problems.STATUS[kind.code]
    assert {"title", "detail", "retryable", "outcome"} <= document.keys()
    assert error.facts.items() <= document.items() or not all(error.facts.values())


def test_facts_never_hide_what_every_document_says() -> None:
    document = problems.document(NotFound("gone", code="other", status=1, name="x"))
    assert (document["code"], document["status"], document["name"]) == ("not-found", 404, "x")


def test_a_fact_that_is_not_json_is_shown_as_text() -> None:
    assert b"object object" in problems.encode(NotFound("x", thing=object()))


@pytest.mark.parametrize(
    ("wait_ms", "header"), [(None, "1"), (1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")]
)
def test_who_should_come_again_is_told_when(wait_ms: int | None, header: str) -> None:
    facts = {} if wait_ms is None else {"retry_after_ms": wait_ms}
    assert problems.respond(errors.TooBusy("busy", **facts)).headers["Retry-After"] == header
    assert "Retry-After" not in problems.respond(NotFound("no")).headers


# --- parameters


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: int


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    a: str = ""
    items: list[Inner] = []


class Query(msgspec.Struct, frozen=True):
    count: Annotated[int, Meta(ge=0, le=10)] | None = None
    flag: bool = False
    names: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)] | None = None
    limit: Annotated[int, Meta(ge=1)] = 5


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", Query()),
        ("count=3", Query(count=3)),
        ("count=%33", Query(count=3)),
        ("flag=true&names=a,b%20c,d+e", Query(flag=True, names=("a", "b c", "d e"))),
        ("names=%C3%BC", Query(names=("ü",))),
        ("limit=7", Query(limit=7)),
    ],
)
def test_parameters_are_read(raw: str, expected: Query) -> None:
    assert params.parse(Query, raw, {"limit": 7}) == expected


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ("count=11", "count"),
        ("count=-1", "count"),
        ("count=+1", "count"),
        ("count=1_0", "count"),
        ("count=01", "count"),
        ("count=-0", "count"),
        ("count=00", "count"),
        ("count=%D9%A3", "count"),
        ("count=1.0", "count"),
        ("count=", "count"),
        ("count", "count"),
        ("count=1&count=2", "count"),
        ("flag=1", "flag"),
        ("flag=True", "flag"),
        ("names=", "names"),
        ("names=a,", "names"),
        ("names=%FF", "names"),
        ("names=%", "names"),
        ("names=\udcff", "names"),
        ("limit=8", "limit"),
        ("other=1", "other"),
        ("count=1&", ""),
        ("&", ""),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused_by_name(raw: str, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        params.parse(Query, raw, {"limit": 7})
    assert refused.value.pointer.partition("/")[0] == pointer


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_percent_encoding_is_undone_for_any_text(text: str) -> None:
    from urllib.parse import quote

    assert params.unquote(quote(text, safe=""), "x") == text


@given(st.text(max_size=30))
def test_any_query_is_read_or_refused(raw: str) -> None:
    try:
        params.parse(Query, raw, {})
    except InvalidRequest as refused:
        assert refused.detail


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('{"a":1}', "/a"),
        ('{"x":1}', "/x"),
        ('{"items":[{"n":"a"}]}', "/items/0/n"),
        ('{"items":[{"n":1},{"m":1}]}', "/items/1/m"),
        ('{"items":[{}]}', "/items/0/n"),
        ("[]", ""),
        ("7", ""),
    ],
)
def test_a_pointer_leads_to_the_field(text: str, pointer: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(text, type=Outer)
    assert params.invalid(caught.value).pointer == pointer


# --- media types


@pytest.mark.parametrize(
    ("accept", "offers", "expected"),
    [
        (None, PLAIN, JSON),
        ("", PLAIN, JSON),
        ("*/*", PLAIN, JSON),
        ("application/*", PLAIN, JSON),
        ("application/cbor", PLAIN, CBOR),
        ("APPLICATION/CBOR", PLAIN, CBOR),
        ("application/json, application/cbor", PLAIN, JSON),
        ("application/json;q=0.5, application/cbor", PLAIN, CBOR),
        ("application/json;q=0, */*", PLAIN, CBOR),
        ("text/html, */*;q=0.1", PLAIN, JSON),
        ("text/event-stream", (*PLAIN, SSE), SSE),
        ("application/x-ndjson;q=1", (*PLAIN, NDJSON), NDJSON),
    ],
)
def test_the_best_media_type_is_answered(accept: str | None, offers: tuple[str, ...], expected: str) -> None:
    assert answer_type(accept, offers) == expected


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json;q=0", "nonsense", "application/json;q=x", ", ,"]
)
def test_nothing_acceptable_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        answer_type(accept)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=UTF-8",
        'application/json;charset="utf-8"',
    ],
)
def test_json_is_known_in_every_spelling(content_type: str) -> None:
    assert body_type(content_type) == JSON


@pytest.mark.parametrize(
    "content_type", [None, "", "text/json", "application/json; charset=utf-16", "application"]
)
def test_other_bodies_are_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        body_type(content_type)


# --- routes


async def handler(call: Any, query: Any) -> Any:
    raise NotImplementedError


def route(method: str, path: str) -> Route[Any]:
    return Route(method, path, handler, Query, None, path, {200: Answer("yes")}, of_store=False)


ROUTER = Router(
    [
        route("GET", "/things"),
        route("GET", "/things/{id}"),
        route("PUT", "/things/{id}"),
        route("GET", "/things/{id}/parts/{part}"),
        route("GET", "/things/{id}/parts/last"),
    ],
    ["/things/{id}/later"],
)


@pytest.mark.parametrize(
    ("path", "found", "ids"),
    [
        ("/things", "/things", {}),
        ("/things/a", "/things/{id}", {"id": "a"}),
        ("/things/", "/things/{id}", {"id": ""}),
        ("/things/a%2Fb", "/things/{id}", {"id": "a%2Fb"}),
        ("/things/a/parts/7", "/things/{id}/parts/{part}", {"id": "a", "part": "7"}),
        ("/things/a/parts/last", "/things/{id}/parts/last", {"id": "a"}),
    ],
)
def test_a_path_finds_its_route_with_raw_ids(path: str, found: str, ids: dict[str, str]) -> None:
    matched, raw = ROUTER.find("GET", path)
    assert (matched.path, raw) == (found, ids)


@pytest.mark.parametrize(
    "path", ["", "/", "/other", "/things/a/b", "/things/a/parts", "/things/a/later", "things"]
)
def test_a_path_that_leads_nowhere_is_not_found(path: str) -> None:
    with pytest.raises(NotFound):
        ROUTER.find("GET", path)


def test_a_wrong_method_names_the_right_ones() -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        ROUTER.find("DELETE", "/things/a")
    assert refused.value.allowed == ["GET", "PUT"]


# --- the board


@pytest.mark.parametrize(
    ("value", "level"),
    [(0.0, "ok"), (0.69, "ok"), (0.7, "elevated"), (0.85, "critical"), (2.0, "critical")],
)
def test_levels_have_sharp_edges(value: float, level: str) -> None:
    assert level_of(value, 0.7, 0.85) == level


def test_health_is_as_bad_as_its_worst_part(tmp_path: Any) -> None:
    health = read_health(tmp_path, 2_000_000_000)
    order = ["ok", "elevated", "critical"]
    levels = [health.memory.level, health.disk.level, *(each.level for each in health.temperatures)]
    worst = max(levels, key=order.index)
    assert health.level == worst
