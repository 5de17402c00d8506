"""`shoal subscribe`: the events of a subscription as they come, each acked when it is shown."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click
import msgspec

from shoal.errors import LeaseExpired, NotFound
from shoal.store.api import Consumer, Store
from shoal.types import MAX_VERSION, Delivered, SubscriptionType
from shoal_host.exits import one_line, visible
from shoal_host.json_text import read_json
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import event_fields, note, note_board, print_event

Selection = tuple[SubscriptionType, Any]


class _Start(click.ParamType[str | int]):
    """Where a subscription begins."""

    name = "START"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        if value in ("beginning", "end"):
            return str(value)
        text = str(value)
        if text.isascii() and text.isdigit() and int(text) <= MAX_VERSION:
            return int(text)
        return self.fail(f"{text!r} is not beginning, end or a position", param, ctx)


START = _Start()


@click.command(
    epilog="""\b
Examples:
  shoal subscribe kitchen-projection board-kitchen
  shoal subscribe alarms --event-type alarm-raised --from end
  shoal subscribe hot --payload '{"celsius": {"$gt": 30}}' --json | jq .data
  shoal subscribe alarms
"""
)
@click.argument("name", metavar="NAME", type=NAME)
@click.argument("stream_id", metavar="[STREAM]", type=NAME, required=False)
@click.option("--all", "everything", is_flag=True, help="Events of all streams.")
@click.option(
    "--event-type", "types", type=NAME, multiple=True, metavar="TYPE", help="Of this type; several: any."
)
@click.option("--pattern", type=NAME, help="Of streams whose id matches; * any run, ? one character.")
@click.option("--payload", metavar="JSON", help='With such data; operators as {"celsius": {"$gt": 30}}.')
@click.option("--tag", "tags", type=NAME, multiple=True, metavar="TAG", help="With this tag; several: any.")
@click.option("--all-tags", is_flag=True, help="With all of the tags.")
@click.option("--from", "start_from", type=START, help="Begin at: beginning, end, or after a position.")
@click.option("--consumer", type=NAME, help="Name of this consumer; without it one of its own.")
@click.option(
    "--strategy", type=click.Choice(["single", "round_robin", "by_stream"]), help="Among consumers."
)
@click.option("--ordered", is_flag=True, default=None, help="Each stream strictly in order.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Events that may be unsettled at once.")
@click.option("--ack-timeout-ms", type=click.IntRange(1), help="Time after which an event comes again.")
@click.option("--max-retries", type=click.IntRange(0), help="Failures after the first until it is parked.")
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@click.option(
    "--no-ack",
    is_flag=True,
    help="Only look: the events come again, and have failed if they were not acked in time.",
)
@target_options
def subscribe(
    target: Target,
    name: str,
    stream_id: str | None,
    *,
    everything: bool,
    types: tuple[str, ...],
    pattern: str | None,
    payload: str | None,
    tags: tuple[str, ...],
    all_tags: bool,
    start_from: str | int | None,
    consumer: str | None,
    count: int | None,
    no_ack: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the events of the subscription NAME as they come, and ack each when it is shown, until Ctrl-C or SIGTERM.

    A subscription that is not there is made, and needs to know what it selects: STREAM, or one of the options
    for it. It remembers what was acked: the same command goes on where it stood. With --json one event per line
    (NDJSON), with its lease and attempt. What a pipe has taken counts as shown: to look at a few, use --count,
    not head. A board that is lost is waited for; stderr says so, without --json.
    """
    wanted = _selection(stream_id, everything, types, pattern, payload, tags, all_tags)
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if start_from is not None:
        given["start_from"] = start_from

    async def follow(store: Store) -> None:
        kind, selector = wanted or await _existing(store, name)
        subscription = store.subscriptions.subscribe(kind, selector, name, consumer=consumer, **given)
        with _until_sigterm():
            async with subscription:
                if not as_json:
                    await _note_others(store, name, consumer)
                await _show_and_ack(subscription, count, no_ack=no_ack, as_json=as_json)

    with_store(target if as_json else replace(target, on_tail=note_board), follow)


def _selection(
    stream_id: str | None,
    everything: bool,  # noqa: FBT001 - one of many of a kind
    types: tuple[str, ...],
    pattern: str | None,
    payload: str | None,
    tags: tuple[str, ...],
    all_tags: bool,  # noqa: FBT001
) -> Selection | None:
    """What was asked for, None for what the subscription has. Raises UsageError for two kinds at once."""
    asked: list[Selection] = []
    if stream_id is not None:
        asked.append(("stream", stream_id))
    if everything:
        asked.append(("all", None))
    if types:
        asked.append(("event_type", list(types)))
    if pattern is not None:
        asked.append(("event_pattern", pattern))
    if payload is not None:
        asked.append(("event_payload", read_json(payload, "--payload")))
    if tags:
        asked.append(("tags", {"all": list(tags)} if all_tags else list(tags)))
    if len(asked) > 1:
        raise click.UsageError(
            "a subscription selects by one kind: STREAM, --all, --event-type, --pattern, --payload or --tag"
        )
    if all_tags and not tags:
        raise click.UsageError("--all-tags is about --tag")
    return asked[0] if asked else None


async def _existing(store: Store, name: str) -> Selection:
    try:
        found = await store.subscriptions.get(name)
    except NotFound as error:
        if "subscription" not in error.facts:  # it is the store that is missing
            raise
        raise click.UsageError(
            f"there is no subscription {one_line(name)!r} yet: say what it selects, with STREAM, --all, --event-type, "
            "--pattern, --payload or --tag"
        ) from error
    return found.type, found.selector


async def _note_others(store: Store, name: str, own: str | None) -> None:
    """Whoever will see nothing for now should know why. A consumer of the name `own` is this one, come back."""
    found, stats = await store.subscriptions.get(name), await store.subscriptions.stats(name)
    if found.options.strategy == "single" and stats.consumers and stats.consumers[0] != own:
        first = visible(stats.consumers[0])
        note(f"shoal: {first} consumes {visible(name)}; events come here when it is gone")


@contextmanager
def _until_sigterm() -> Iterator[None]:
    """SIGTERM ends the block, and is no error: it stops a service, whose leases are given back as after Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told = False

    def end() -> None:
        nonlocal told
        told = True
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if not told:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _show_and_ack(consumer: Consumer, count: int | None, *, no_ack: bool, as_json: bool) -> None:
    shown = 0
    while shown != count:
        with _coming_again(as_json=as_json):
            event = await anext(consumer)
            _show(event, as_json=as_json)  # flushed: what is acked has been written
            shown += 1
            if not no_ack:
                await consumer.ack(event)
    with _coming_again(as_json=as_json):
        await consumer.flush()


@contextmanager
def _coming_again(*, as_json: bool) -> Iterator[None]:
    """Acks that came too late are no end: the reader of a pipe paused, or the board began anew."""
    try:
        yield
    except LeaseExpired as error:
        if not as_json:
            note(f"shoal: {one_line(error.detail)}")


def _show(event: Delivered, *, as_json: bool) -> None:
    if as_json:
        fields = event_fields(event) | {"lease": event.lease, "attempt": event.attempt}
        click.echo(msgspec.json.encode(fields))
    else:
        print_event(event)
