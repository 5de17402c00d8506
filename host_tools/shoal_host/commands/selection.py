"""Options that select among the events of all streams: what `query` and `tail` share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
import msgspec

from shoal.types import EventFilter, Query, QueryItem
from shoal_host.exits import one_line
from shoal_host.json_text import read_json
from shoal_host.options import NAME


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    items: list[_Item]


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --type, --tag, --any-tag, --pattern and --query; the command gets `selection`."""

    @functools.wraps(command)
    def with_selection(
        types: tuple[str, ...],
        tags: tuple[str, ...],
        pattern: str | None,
        query_text: str | None,
        *,
        any_tag: bool,
        **rest: Any,
    ) -> Any:
        if query_text is not None and (types or tags):
            raise click.UsageError("put types and tags into --query, or leave it out")
        selection = EventFilter(
            types=types,
            tags=tags,
            tags_match="any" if any_tag else "all",
            stream_pattern=pattern,
            query=None if query_text is None else _parsed(query_text),
        )
        return command(selection=selection, **rest)

    options: Callable[..., Any] = with_selection
    for option in (
        click.option("--query", "query_text", metavar="JSON", help='{"items": [{"types", "tags"}, ...]}.'),
        click.option(
            "--pattern",
            type=NAME,
            metavar="PATTERN",
            help="Streams whose id matches; * any run, ? one character.",
        ),
        click.option("--any-tag", is_flag=True, help="One of the tags is enough."),
        click.option(
            "--tag", "tags", type=NAME, multiple=True, metavar="TAG", help="With this tag; several: all."
        ),
        click.option(
            "--type", "types", type=NAME, multiple=True, metavar="TYPE", help="Of this type; several: any."
        ),
    ):
        options = option(options)
    return options


def _parsed(text: str) -> Query:
    try:
        query = msgspec.convert(read_json(text, "--query"), _Query)
    except msgspec.ValidationError as error:
        raise click.UsageError(
            f'--query must be {{"items": [{{"types": [...], "tags": [...]}}]}}: {one_line(str(error))}'
        ) from error
    return Query(tuple(QueryItem(item.types, item.tags) for item in query.items))
