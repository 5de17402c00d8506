"""`shoal tail`: the last events, then new ones as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import click
import msgspec

from shoal.errors import StreamNotFound
from shoal.store.api import Store
from shoal.types import MAX_VERSION, CaughtUp, Event, EventFilter
from shoal_host.commands.selection import selection_options
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import event_fields, note_board, print_event


@click.command(
    epilog="""\b
Examples:
  shoal tail board-kitchen
  shoal tail --type user_created --last 0
  shoal tail --after 1000 --json | jq .data
"""
)
@click.argument("stream_id", metavar="[STREAM]", type=NAME, required=False)
@selection_options
@click.option(
    "--last", type=click.IntRange(0, 10_000), default=10, show_default=True, help="Events to begin with."
)
@click.option(
    "--after",
    type=click.IntRange(0, MAX_VERSION),
    metavar="POSITION",
    help="Begin after this position instead; 0 shows everything.",
)
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@target_options
def tail(
    target: Target,
    selection: EventFilter,
    stream_id: str | None,
    *,
    last: int,
    after: int | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Show the last events, then new ones as they come, until Ctrl-C.

    Of STREAM, or of all streams. With --json one event per line (NDJSON). A board that is lost is waited
    for; stderr says so, without --json.
    """
    if stream_id is not None and selection != EventFilter(tags_match=selection.tags_match):
        raise click.UsageError("give STREAM, or options that select among all streams, not both")

    async def follow(store: Store) -> None:
        left = count
        async for event in _events(store, selection, stream_id, after, last):
            _show(event, as_json=as_json)
            left = None if left is None else left - 1
            if left == 0:
                return

    with_store(target if as_json else replace(target, on_tail=note_board), follow)


async def _events(
    store: Store, selection: EventFilter, stream_id: str | None, after: int | None, last: int
) -> AsyncIterator[Event]:
    """Without a gap: what there is up to a position, then the tail after that position."""
    if after is None:
        events, after = await _latest(store, selection, stream_id, last)
        for event in events:
            yield event
    elif stream_id is not None:
        with suppress(
            StreamNotFound
        ):  # a stream that is not there yet is waited for, one that is gone for ever not
            await store.streams.read_page(stream_id, None, 1)
    async for item in store.streams.tail(selection, after, stream_id):
        if not isinstance(item, CaughtUp):
            yield item


async def _latest(
    store: Store, selection: EventFilter, stream_id: str | None, last: int
) -> tuple[list[Event], int]:
    """The `last` events in order, and the position after which none was missed."""
    page = await store.streams.read_events(selection, None, max(1, last), "backward")
    if stream_id is None:
        return page.events[:last][::-1], page.head
    try:
        latest = await store.streams.read_page(stream_id, None, max(1, last), "backward")
    except StreamNotFound:
        return [], page.head
    events = [event for event in latest.events[:last][::-1] if event.position <= page.head]
    return events, page.head


def _show(event: Event, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(event_fields(event)))
    else:
        print_event(event)
