"""`shoal subscription`: look after subscriptions and what they have parked."""

from __future__ import annotations

from typing import Any, Final

import click
import msgspec

from shoal.types import ParkedEvent, Subscription, SubscriptionOptions, timestamp
from shoal_host.commands.subscribe import START
from shoal_host.exits import visible
from shoal_host.json_text import read_json
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import brief_payload, event_fields, local_time, note, print_json, print_table

_OPTIONS: Final = SubscriptionOptions.__struct_fields__


@click.group()
def subscription() -> None:
    """List, change and delete subscriptions; replay what they have parked."""


@subscription.command(
    "list",
    epilog="""\b
Example:
  shoal subscription list
""",
)
@target_options
def list_(target: Target, *, as_json: bool) -> None:
    """List the subscriptions of the store."""
    found = with_store(target, lambda store: store.subscriptions.list())
    if as_json:
        print_json({"subscriptions": [_fields(one) for one in found]})
    else:
        rows = [(visible(one.name), one.type, _selector(one), one.checkpoint) for one in found]
        print_table(("name", "type", "selector", "checkpoint"), rows)


@subscription.command(
    epilog="""\b
Example:
  shoal subscription show alarms
"""
)
@click.argument("name", metavar="NAME", type=NAME)
@target_options
def show(target: Target, name: str, *, as_json: bool) -> None:
    """Show what NAME selects, how it delivers, and where it stands."""

    async def look(store: Any) -> tuple[Subscription, Any]:
        return await store.subscriptions.get(name), await store.subscriptions.stats(name)

    found, stats = with_store(target, look)
    numbers = msgspec.to_builtins(stats)
    if as_json:
        print_json(_fields(found) | {"stats": numbers})
        return
    rows = [(key, _shown(value)) for key, value in (_fields(found) | numbers).items()]
    print_table(("what", "value"), rows)


@subscription.command(
    "set",
    epilog="""\b
Examples:
  shoal subscription set alarms max_retries=3 ack_timeout_ms=60000
  shoal subscription set alarms 'backoff_ms=[1000, 60000]' strategy=by_stream
""",
)
@click.argument("name", metavar="NAME", type=NAME)
@click.argument("settings", metavar="OPTION=VALUE...", nargs=-1, required=True)
@target_options
def set_(target: Target, name: str, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Change options of NAME. VALUE is JSON, or a word."""
    options = dict(_setting(text) for text in settings)
    if len(options) < len(settings):
        raise click.UsageError("an option is given twice")
    changed = with_store(target, lambda store: store.subscriptions.update(name, **options))
    if as_json:
        print_json(_fields(changed))
    else:
        click.echo(f"{visible(name)}: {', '.join(f'{key} is {_shown(options[key])}' for key in options)}")


@subscription.command(
    epilog="""\b
Example:
  shoal subscription delete alarms
"""
)
@click.argument("name", metavar="NAME", type=NAME)
@target_options
def delete(target: Target, name: str, *, as_json: bool) -> None:
    """Delete NAME with what it has parked. Its consumers end; no event of a stream is touched."""
    with_store(target, lambda store: store.subscriptions.unsubscribe(name))
    if as_json:
        print_json({"name": name})
    else:
        click.echo(f"deleted the subscription {visible(name)}")


@subscription.command(
    epilog="""\b
Example:
  shoal subscription parked alarms --limit 20
"""
)
@click.argument("name", metavar="NAME", type=NAME)
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="POSITION", help="Begin after this position."
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many at most."
)
@target_options
def parked(target: Target, name: str, *, after: int, limit: int, as_json: bool) -> None:
    """List the events that NAME has put aside, and why."""
    page = with_store(target, lambda store: store.subscriptions.parked_page(name, after, limit))
    if as_json:
        print_json({"events": [_parked_fields(event) for event in page.events], "next": page.next})
        return
    columns = ("position", "time", "event", "attempts", "reason", "data")
    print_table(columns, [_parked_row(event) for event in page.events])
    if page.next is not None:
        note(f"there are more: --after {page.next}")


@subscription.command(
    epilog="""\b
Examples:
  shoal subscription replay alarms
  shoal subscription replay alarms --limit 1
"""
)
@click.argument("name", metavar="NAME", type=NAME)
@click.option("--limit", type=click.IntRange(1), help="So many at most, the oldest first; without it all.")
@target_options
def replay(target: Target, name: str, *, limit: int | None, as_json: bool) -> None:
    """Have parked events of NAME delivered again. The checkpoint stays where it is."""
    replayed = with_store(target, lambda store: store.subscriptions.replay_parked(name, limit))
    if as_json:
        print_json({"replayed": replayed})
    else:
        events, are = ("event", "is") if replayed == 1 else ("events", "are")
        click.echo(f"{replayed} parked {events} of {visible(name)} {are} delivered again")


@subscription.command(
    epilog="""\b
Examples:
  shoal subscription reset alarms beginning
  shoal subscription reset alarms 1200
"""
)
@click.argument("name", metavar="NAME", type=NAME)
@click.argument("to", metavar="TO", type=START)
@target_options
def reset(target: Target, name: str, to: Any, *, as_json: bool) -> None:
    """Have NAME begin again: at the beginning, at the end, or after a position.

    Every event after that comes again; what is parked after it is forgotten.
    """
    changed = with_store(target, lambda store: store.subscriptions.reset(name, to))
    if as_json:
        print_json(_fields(changed))
    else:
        click.echo(f"{visible(name)} goes on after position {changed.checkpoint}")


def _fields(one: Subscription) -> dict[str, Any]:
    """A subscription as HTTP gives it."""
    return {
        "name": one.name,
        "type": one.type,
        "selector": one.selector,
        "start_from": one.start_from,
        **msgspec.to_builtins(one.options),
        "checkpoint": one.checkpoint,
        "created": timestamp(one.created_us),
    }


def _parked_fields(event: ParkedEvent) -> dict[str, Any]:
    return event_fields(event) | {
        "reason": event.reason,
        "attempts": event.attempts,
        "replaying": event.replaying,
    }


def _parked_row(event: ParkedEvent) -> tuple[object, ...]:
    return (
        event.position,
        local_time(event.epoch_us),
        f"{visible(event.stream_id)}@{event.version}",
        event.attempts,
        f"{event.reason} (delivered again)" if event.replaying else event.reason,
        brief_payload(event.data_raw, event.content_type),
    )


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or name not in _OPTIONS:
        raise click.UsageError(f"{text!r} is not OPTION=VALUE with one of the options {', '.join(_OPTIONS)}")
    word = value.replace("_", "").isalpha() and value not in {"true", "false", "null"}
    return name, value if word else read_json(value, name)


def _selector(one: Subscription) -> str:
    return "" if one.selector is None else visible(_shown(one.selector))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
