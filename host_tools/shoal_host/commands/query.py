"""`shoal query`: events of all streams, by type, tag, stream or a whole query."""

from __future__ import annotations

import sys
from typing import Final

import click

from shoal.store.api import Store
from shoal.types import MAX_VERSION, Direction, Event, EventFilter, EventsPage
from shoal_host.commands.selection import selection_options
from shoal_host.options import Target, target_options, with_store
from shoal_host.output import event_fields, note, print_event, print_json
from shoal_host.progress import LongWork

PAGE: Final = 1_000


@click.command(
    epilog="""\b
Examples:
  shoal query --type user_created --count 10
  shoal query --pattern 'board-*' --backward --count 1
  shoal query --query '{"items": [{"types": ["sold"], "tags": ["shop:7"]}, {"tags": ["recall"]}]}' --json
"""
)
@selection_options
@click.option(
    "--after",
    type=click.IntRange(0, MAX_VERSION),
    metavar="POSITION",
    help="Events after this position (backward: before it).",
)
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Most events to show.")
@click.option("--backward", is_flag=True, help="From new to old.")
@target_options
def query(
    target: Target, selection: EventFilter, *, after: int | None, count: int, backward: bool, as_json: bool
) -> None:
    """Show events of all streams, in the order of their positions.

    Types are alternatives, tags must all be there (--any-tag: one of them). Without any option: all events.
    With --json one document: {"events", "head", "next"}; "next" is what to pass as --after.
    """
    direction: Direction = "backward" if backward else "forward"
    shown: list[Event] = []

    async def pages(store: Store) -> EventsPage:
        page = await store.streams.read_events(selection, after, min(PAGE, count), direction)
        with LongWork("reading") as work:
            while True:
                shown.extend(page.events) if as_json else _print(page.events)
                work.advance(len(page.events))
                left = count - work.done
                if left <= 0 or _at_end(page, direction):
                    return page
                page = await store.streams.read_events(selection, page.next, min(PAGE, left), direction)

    page = with_store(target, pages)
    if as_json:
        print_json({"events": [event_fields(event) for event in shown], "head": page.head, "next": page.next})
    elif not _at_end(page, direction) and sys.stderr.isatty():
        note(f"there may be more: --after {page.next}")


def _at_end(page: EventsPage, direction: Direction) -> bool:
    return page.next >= page.head if direction == "forward" else page.next <= 1


def _print(events: list[Event]) -> None:
    for event in events:
        print_event(event)
