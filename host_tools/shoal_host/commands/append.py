"""`shoal append`: one event from the command line, or many from standard input."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import click
import msgspec

from shoal.store.api import Store
from shoal.types import ANY_VERSION, MAX_VERSION, NO_STREAM, STREAM_EXISTS, Appended, NewEvent
from shoal_host.exits import one_line
from shoal_host.options import Target, environment, target_options, with_store
from shoal_host.output import appended_fields, note, print_json
from shoal_host.progress import LongWork

_READ_BYTES: Final = 256 * 1024
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


class _NewEventLine(msgspec.Struct, forbid_unknown_fields=True):
    """A whole event on one line of input."""

    event_type: str
    data: Any
    metadata: dict[str, Any] | None = None
    tags: list[str] | None = None
    event_id: str | None = None


@click.command(
    epilog="""\b
Examples:
  shoal append user-1 user_created '{"name": "Alice"}' --expected-version none
  sensor | shoal append kitchen temperature_measured -
  shoal append kitchen - < events.ndjson
"""
)
@click.argument("stream_id", metavar="STREAM")
@click.argument("event_type", metavar="TYPE|-")
@click.argument("data", metavar="[DATA|-]", required=False)
@click.option(
    "--expected-version",
    type=ExpectedVersion(),
    default="any",
    show_default=True,
    help="Version the stream must have: any, none (no stream), exists, or a number.",
)
@click.option("--event-id", metavar="ID", help="Id of the event: the same one again stores nothing twice.")
@click.option("--metadata", metavar="JSON", help="Metadata of the event, a JSON object.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag of the event; may be repeated.")
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
        event = msgspec.structs.replace(common, data=_json(data or "", "DATA"))
        result = with_store(target, lambda store: _append(store, stream_id, expected_version, [event]))
        _show(result, 1, as_json=as_json)
        return
    batches = _batches(sys.stdin.buffer, source, batch)
    _show(*_append_all(target, stream_id, expected_version, batches), as_json=as_json)


def _source(common: NewEvent, data: str | None) -> Callable[[bytes, int], NewEvent] | None:
    """What makes an event of a numbered line of standard input; None when DATA holds the event."""
    whole_lines = common.event_type == "-" and data is None
    if data is None and not whole_lines:
        raise click.UsageError('give DATA as JSON (or - to read lines), e.g. \'{"name": "Alice"}\'')
    if data != "-" and not whole_lines:
        return None
    if common.event_id is not None or (whole_lines and (common.metadata or common.tags)):
        raise click.UsageError("put ids into the lines (TYPE -), and for those metadata and tags as well")
    if whole_lines:
        return _whole_event
    return lambda line, number: msgspec.structs.replace(common, data=_json(line, f"line {number}"))


def _append_all(
    target: Target, stream_id: str, expected_version: int, batches: Iterator[list[NewEvent]]
) -> tuple[Appended | None, int]:
    """Append batch after batch over one connection; standard input is read in between, where Ctrl-C works."""
    connection = environment().connect(target)
    result: Appended | None = None
    count = 0
    with asyncio.Runner() as runner, LongWork("appending") as work:
        store: Store = runner.run(_enter(connection))
        try:
            for events in batches:
                result = runner.run(_append(store, stream_id, expected_version, events))
                if expected_version != ANY_VERSION:
                    expected_version = int(result)
                count += len(events)
                work.advance(len(events))
        except Exception:
            if count:
                note(f"{count} events were appended before this:")
            raise
        finally:
            runner.run(_leave(connection))
    return result, count


async def _enter(connection: Any) -> Store:
    store: Store = await connection.__aenter__()
    return store


async def _leave(connection: Any) -> None:
    await connection.__aexit__(None, None, None)


async def _append(store: Store, stream_id: str, expected: int, events: list[NewEvent]) -> Appended:
    return await store.streams.append(stream_id, expected, events)


def _batches(
    source: BinaryIO, event: Callable[[bytes, int], NewEvent], size: int
) -> Iterator[list[NewEvent]]:
    """Events of what is there to read at the moment, at most `size` at once."""
    rest, number = b"", 0
    read = getattr(source, "read1", source.read)
    while chunk := read(_READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        events = [event(line, number + at) for at, line in enumerate(lines, 1) if line.strip()]
        number += len(lines)
        yield from (events[at : at + size] for at in range(0, len(events), size))
    if rest.strip():
        yield [event(rest, number + 1)]


def _whole_event(line: bytes, number: int) -> NewEvent:
    try:
        whole = msgspec.json.decode(line, type=_NewEventLine)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise click.UsageError(f"line {number} is not an event: {one_line(str(error))}") from error
    return NewEvent(whole.event_type, whole.data, whole.metadata, whole.tags, whole.event_id)


def _json(text: str | bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise click.UsageError(
            f"{what} is not JSON ({one_line(str(error))}); text needs quotes of its own: '\"text\"'"
        ) from error


def _metadata(text: str | None) -> dict[str, Any] | None:
    value = None if text is None else _json(text, "--metadata")
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
            f"{one_line(result.stream_id)} is at version {result.version}, position {result.position}{known}"
        )
