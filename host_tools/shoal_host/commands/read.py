"""`shoal read`: the events of one stream."""

from __future__ import annotations

import sys
from typing import Final, get_args

import click

from shoal.store.api import Store
from shoal.types import MAX_VERSION, Consistency, Direction, Event, StreamPage
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import event_fields, note, print_event, print_json
from shoal_host.progress import LongWork

PAGE: Final = 1_000


@click.command(
    epilog="""\b
Examples:
  shoal read user-1
  shoal read user-1 --backward --count 10
  shoal read user-1 --from 100 --json | jq .events[].data
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.option(
    "--from",
    "start",
    type=click.IntRange(0, MAX_VERSION),
    metavar="VERSION",
    help="Version to start at; default the first, backward the last.",
)
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Most events to show.")
@click.option("--backward", is_flag=True, help="From new to old.")
@click.option(
    "--consistency",
    type=click.Choice(get_args(Consistency)),
    help="How new: what this board has (local), what the leader knows (the default), or proven by a quorum.",
)
@target_options
def read(
    target: Target,
    stream_id: str,
    *,
    start: int | None,
    count: int,
    backward: bool,
    consistency: Consistency | None,
    as_json: bool,
) -> None:
    """Show the events of STREAM.

    With --json one document: {"stream_id", "version", "events", "next"}.
    """
    direction: Direction = "backward" if backward else "forward"
    shown: list[Event] = []

    async def pages(store: Store) -> StreamPage:
        page = await store.streams.read_page(
            stream_id, start, min(PAGE, count), direction, consistency=consistency
        )
        with LongWork("reading") as work:
            while True:
                shown.extend(page.events) if as_json else _print(page.events)
                work.advance(len(page.events))
                left = count - work.done
                if page.next is None or left <= 0:
                    return page
                page = await store.streams.read_page(
                    stream_id, page.next, min(PAGE, left), direction, consistency=consistency
                )

    page = with_store(target, pages)
    if as_json:
        events = [event_fields(event) for event in shown]
        print_json(
            {"stream_id": page.stream_id, "version": page.version, "events": events, "next": page.next}
        )
    elif page.next is not None and sys.stderr.isatty():
        note(f"there is more: --from {page.next}")


def _print(events: list[Event]) -> None:
    for event in events:
        print_event(event)
