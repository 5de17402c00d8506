"""`shoal append`: one event from the command line, or many from standard input."""

from __future__ import annotations

import sys
from typing import Any, Final

import click
import msgspec

from shoal.store.api import Store
from shoal.types import ANY_VERSION, MAX_VERSION, NO_STREAM, STREAM_EXISTS, Appended, NewEvent
from shoal_host.commands.append_lines import LineAppends, MakeEvent, batches, whole_event
from shoal_host.exits import one_line, visible
from shoal_host.json_text import read_json
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import appended_fields, print_json

_WORDS: Final = {"any": ANY_VERSION, "none": NO_STREAM, "exists": STREAM_EXISTS}


class ExpectedVersion(click.ParamType[int]):
    """`any`, `none`, `exists` or a version from 0."""

    name = "VERSION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value in _WORDS:
            return _WORDS[value]
        if value.isascii() and value.isdigit() and int(value) <= MAX_VERSION:
            return int(value)
        return self.fail(f"{one_line(value)!r} is not any, none, exists or a version from 0", param, ctx)


@click.command(
    epilog="""\b
Examples:
  shoal append user-1 user_created '{"name": "Alice"}' --expected-version none
  sensor | shoal append kitchen temperature_measured -
  shoal append kitchen - < events.ndjson
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.argument("event_type", metavar="TYPE|-", type=NAME)
@click.argument("data", metavar="[DATA|-]", required=False)
@click.option(
    "--expected-version",
    type=ExpectedVersion(),
    default="any",
    show_default=True,
    help="Version the stream must have: any, none (no stream), exists, or a number.",
)
@click.option(
    "--event-id", type=NAME, metavar="ID", help="Id of the event: the same one again stores nothing twice."
)
@click.option("--metadata", metavar="JSON", help="Metadata of the event, a JSON object.")
@click.option(
    "--tag", "tags", type=NAME, multiple=True, metavar="TAG", help="Tag of the event; may be repeated."
)
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=500,
    show_default=True,
    help="Most events per append, from standard input.",
)
@target_options
def append(
    target: Target,
    stream_id: str,
    event_type: str,
    data: str | None,
    *,
    expected_version: int,
    event_id: str | None,
    metadata: str | None,
    tags: tuple[str, ...],
    batch: int,
    as_json: bool,
) -> None:
    """Append events to STREAM.

    DATA is the event's data as JSON. With `-` for DATA, each line of standard input is the data of one
    event of TYPE. With `-` for TYPE, each line is a whole event: {"event_type", "data", "metadata"?,
    "tags"?, "event_id"?}. Lines are appended as they come, each append whole or not at all.
    """
    common = NewEvent(event_type, None, _metadata(metadata), list(tags) or None, event_id)
    source = _source(common, data)
    if source is None:
        event = msgspec.structs.replace(common, data=read_json(data or "", "DATA"))
        result = with_store(target, lambda store: _append(store, stream_id, expected_version, event))
        _show(result, 1, as_json=as_json)
        return
    appends = LineAppends(target, stream_id, expected_version)
    appends.run(batches(sys.stdin.buffer, source, batch))
    _show(appends.result, appends.count, as_json=as_json)


def _source(common: NewEvent, data: str | None) -> MakeEvent | None:
    """What makes an event of a numbered line of standard input; None when DATA holds the event."""
    whole_lines = common.event_type == "-" and data is None
    if data is None and not whole_lines:
        raise click.UsageError('give DATA as JSON (or - to read lines), e.g. \'{"name": "Alice"}\'')
    if data != "-" and not whole_lines:
        return None
    if common.event_id is not None or (whole_lines and (common.metadata or common.tags)):
        raise click.UsageError("put ids into the lines (TYPE -), and for those metadata and tags as well")
    if whole_lines:
        return whole_event
    return lambda line, number: msgspec.structs.replace(common, data=read_json(line, f"line {number}"))


async def _append(store: Store, stream_id: str, expected: int, event: NewEvent) -> Appended:
    return await store.streams.append(stream_id, expected, [event])


def _metadata(text: str | None) -> dict[str, Any] | None:
    value = None if text is None else read_json(text, "--metadata")
    if value is not None and not isinstance(value, dict):
        raise click.UsageError('--metadata must be a JSON object, e.g. \'{"correlation_id": "req-1"}\'')
    return value


def _show(result: Appended | None, count: int, *, as_json: bool) -> None:
    if as_json:
        fields = {} if result is None else appended_fields(result)
        print_json({"events": count} | fields)
    elif result is None:
        click.echo("nothing to append")
    else:
        known = " (already there)" if result.duplicate else ""
        click.echo(
            f"{visible(result.stream_id)} is at version {result.version}, position {result.position}{known}"
        )
