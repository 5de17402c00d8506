"""The OpenAPI 3.1 document, generated from the routes: the types that check requests describe them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

import shoal
from shoal import errors
from shoal.http.context import DEFAULT_PAGE
from shoal.http.params import WITHOUT_DEFAULT
from shoal.http.problems import PROBLEM_TYPE, STATUS, Problem
from shoal.http.routing import Answer, Route
from shoal.types import JSON, Limits

_REF: Final = "#/components/schemas/{name}"
_ID: Final = re.compile(r"\{(\w+)\}")
_ALWAYS: Final = (errors.InvalidRequest, errors.TooBusy, errors.Unavailable, errors.InternalError)
_GUARDED: Final = (errors.Unauthorized, errors.Forbidden)
_WITH_BODY: Final = (errors.UnsupportedMediaType, errors.BodyTooLarge, errors.DiskFull)
_OF_STORE: Final = (errors.NotFound,)
_SLOW_BODY: Final = 408
_PRECONDITION_FAILED: Final = 412

_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "If-Match": (
        "`*`: the stream exists, or the exact version in quotes.",
        {"type": "string", "pattern": r'^(\*|"(0|[1-9][0-9]{0,15})")$'},
    ),
    "If-None-Match": ("`*`: no stream.", {"type": "string", "const": "*"}),
    "Last-Event-ID": (
        "Position after which a live tail goes on.",
        {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
    ),
    "ETag": ("The version of the stream, in quotes.", {"type": "string"}),
    "Location": ("What was made; of events, the first.", {"type": "string"}),
    "Link": ("The next page, if there is one.", {"type": "string"}),
}


def document(routes: Sequence[Route[Any]], limits: Limits) -> bytes:
    """The document as JSON."""
    schemas = _Schemas(routes)
    schemas.limit(limits)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for path in route.paths():
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, schemas, limits)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "shoal",
                "version": shoal.__version__,
                "description": "An event store. Paths below /v1 mean the store `main`.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "security": [{"token": []}, {}],
            "paths": paths,
            "components": {
                "schemas": schemas.components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


class _Schemas:
    """The schemas of all bodies, generated together so that each stands there once."""

    def __init__(self, routes: Iterable[Route[Any]]) -> None:
        types: list[Any] = [Problem]
        for route in routes:
            types += [answer.body for answer in route.answers.values() if answer.body is not None]
            if route.body is not None:
                types.append(route.body.type)
        self._keys = {repr(kind): index for index, kind in enumerate(types)}
        schemas, self.components = msgspec.json.schema_components(types, ref_template=_REF)
        self._schemas = list(schemas)

    def limit(self, limits: Limits) -> None:
        """Write the configured limits into what clients send."""
        most = _limits_of(limits)
        for name, schema in self.components.items():
            if name.startswith(("Sent", "Query", "Item")):
                for field, property_schema in schema.get("properties", {}).items():
                    property_schema.update(most.get(field, {}))

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one body's type."""
        return self._schemas[self._keys[repr(kind)]]


def _limits_of(limits: Limits) -> dict[str, dict[str, int]]:
    """What configured limits add to the schema of a field of that name. Lengths are of bytes: ASCII in mind."""
    return {
        "limit": _page_limit(limits),
        "count": _page_limit(limits),
        "events": {"maxItems": limits.events_per_append},
        "writes": {"maxItems": limits.writes_per_append},
        "items": {"maxItems": limits.query_items},
        "types": {"maxItems": limits.query_items},
        "tags": {"maxItems": limits.tags_per_event},
        "event_type": {"maxLength": limits.event_type_bytes},
        "event_id": {"maxLength": limits.event_id_bytes},
        "stream_id": {"maxLength": limits.stream_id_bytes},
    }


def _page_limit(limits: Limits) -> dict[str, int]:
    return {"maximum": limits.page_events, "default": min(DEFAULT_PAGE, limits.page_events)}


def _operation(route: Route[Any], path: str, schemas: _Schemas, limits: Limits) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route.method, path),
        "summary": route.summary,
        "parameters": [
            *_path_parameters(path, limits),
            *_query_parameters(route.query, limits),
            *(_header_parameter(name) for name in route.headers),
        ],
        "responses": _responses(route, schemas),
    }
    description = (route.query.__doc__ or "").strip()
    if route.query.__struct_fields__:
        operation["description"] = description
    if route.body is not None:
        schema = schemas.of(route.body.type)
        operation["requestBody"] = {
            "required": True,
            "content": {media: {"schema": _body_schema(media, schema)} for media in route.body.media},
        }
    if route.role is None:
        operation["security"] = []
    else:
        operation["x-role"] = route.role
    if route.all_streams:
        operation["x-all-streams"] = True
    return operation


def _operation_id(method: str, path: str) -> str:
    return "_".join([method.lower(), *(part.strip("{}") for part in re.split(r"[/.]", path) if part)])


def _body_schema(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    """CBOR carries the same shape; it is binary, so only JSON is described."""
    return schema if media == JSON else {}


def _path_parameters(path: str, limits: Limits) -> list[dict[str, Any]]:
    schemas: dict[str, dict[str, Any]] = {
        "store": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.\\-]{0,63}$"},
        "stream_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": limits.stream_id_bytes,
            "not": {"enum": [".", ".."]},
        },
        "event_id": {"type": "string", "minLength": 1, "maxLength": limits.event_id_bytes},
        "version": {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
        "name": {
            "type": "string",
            "minLength": 1,
            "maxLength": limits.subscription_name_bytes,
            "not": {"enum": [".", ".."]},
        },
    }
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas[name]} for name in _ID.findall(path)
    ]


def _query_parameters(struct: type[msgspec.Struct], limits: Limits) -> list[dict[str, Any]]:
    properties = msgspec.json.schema_components([struct])[1][struct.__name__]["properties"]
    return [_query_parameter(name, dict(schema), limits) for name, schema in properties.items()]


def _query_parameter(name: str, schema: dict[str, Any], limits: Limits) -> dict[str, Any]:
    options = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
    schema = (options[0] if options else {}) | {
        key: value for key, value in schema.items() if value is not None
    }
    if name == "limit":
        schema |= {"maximum": limits.page_events} if WITHOUT_DEFAULT in schema else _page_limit(limits)
    parameter: dict[str, Any] = {"name": name, "in": "query", "schema": schema}
    if schema.get("type") == "array":
        parameter |= {"style": "form", "explode": False}
    if "description" in schema:
        parameter["description"] = schema.pop("description")
    return parameter


def _header_parameter(name: str) -> dict[str, Any]:
    description, schema = _HEADERS[name]
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _responses(route: Route[Any], schemas: _Schemas) -> dict[str, Any]:
    responses = {str(status): _success(answer, schemas) for status, answer in route.answers.items()}
    problem = {"content": {PROBLEM_TYPE: {"schema": schemas.of(Problem)}}}
    for status, codes in sorted(_problems(route).items()):
        responses[str(status)] = {"description": ", ".join(f"`{code}`" for code in codes), **problem}
    return responses


def _problems(route: Route[Any]) -> dict[int, list[str]]:
    """Codes by status. Every route is also limited, guarded and able to fail."""
    kinds: list[type[errors.ShoalError]] = [*_ALWAYS, *route.problems]
    kinds += _GUARDED if route.role is not None else ()
    kinds += _OF_STORE if route.of_store else ()
    kinds += (errors.NotAcceptable,) if any(answer.body for answer in route.answers.values()) else ()
    kinds += _WITH_BODY if route.method in {"POST", "PUT", "PATCH", "DELETE"} else ()
    by_status: dict[int, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        by_status.setdefault(STATUS[kind.code], []).append(kind.code)
    if route.body is not None:
        by_status[_SLOW_BODY] = ["invalid-request"]
    if "If-Match" in route.headers:
        by_status[_PRECONDITION_FAILED] = ["wrong-expected-version"]
    return by_status


def _success(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.meaning}
    if answer.body is not None:
        schema = schemas.of(answer.body)
        response["content"] = {media: {"schema": _body_schema(media, schema)} for media in answer.media}
    if answer.headers:
        response["headers"] = {
            name: {"description": _HEADERS[name][0], "schema": _HEADERS[name][1]} for name in answer.headers
        }
    return response
