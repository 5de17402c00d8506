"""`shoal snapshot`: states saved beside a stream."""

from __future__ import annotations

import click

from shoal.types import MAX_VERSION, Snapshot
from shoal_host.exits import visible
from shoal_host.json_text import read_json
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import brief_payload, local_time, print_json, print_table, snapshot_fields

_VERSION = click.IntRange(0, MAX_VERSION)


@click.group()
def snapshot() -> None:
    """Save, show and delete snapshots of a stream's state."""


@snapshot.command(
    "list",
    epilog="""\b
Example:
  shoal snapshot list account-7
""",
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@target_options
def list_(target: Target, stream_id: str, *, as_json: bool) -> None:
    """List the usable snapshots of STREAM, oldest first."""
    snapshots = with_store(target, lambda store: store.snapshots.list(stream_id))
    if as_json:
        print_json({"snapshots": [snapshot_fields(one) for one in snapshots]})
    else:
        print_table(("version", "saved", "data"), [_row(one) for one in snapshots])


@snapshot.command(
    epilog="""\b
Examples:
  shoal snapshot show account-7
  shoal snapshot show account-7 41 --json
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.argument("version", type=_VERSION, required=False)
@target_options
def show(target: Target, stream_id: str, *, version: int | None, as_json: bool) -> None:
    """Show the snapshot of STREAM at VERSION, or the latest."""
    one: Snapshot = with_store(
        target,
        lambda store: (
            store.snapshots.load(stream_id)
            if version is None
            else store.snapshots.load_at(stream_id, version)
        ),
    )
    if as_json:
        print_json(snapshot_fields(one))
    else:
        print_table(("version", "saved", "data"), [_row(one)])


@snapshot.command(
    epilog="""\b
Example:
  shoal snapshot save account-7 41 '{"balance": 120}'
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.argument("version", type=_VERSION)
@click.argument("data", metavar="DATA")
@target_options
def save(target: Target, stream_id: str, *, version: int, data: str, as_json: bool) -> None:
    """Save DATA (JSON) as the state of STREAM at VERSION; the same version is replaced."""
    state = read_json(data, "DATA")
    with_store(target, lambda store: store.snapshots.save(stream_id, version, state))
    if as_json:
        print_json({"stream_id": stream_id, "version": version})
    else:
        click.echo(f"saved the state of {visible(stream_id)} at version {version}")


@snapshot.command(
    epilog="""\b
Examples:
  shoal snapshot delete account-7 41
  shoal snapshot delete account-7
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.argument("version", type=_VERSION, required=False)
@target_options
def delete(target: Target, stream_id: str, *, version: int | None, as_json: bool) -> None:
    """Delete the snapshot of STREAM at VERSION, or all of them. Fine when there are none."""
    with_store(
        target,
        lambda store: (
            store.snapshots.delete(stream_id)
            if version is None
            else store.snapshots.delete_at(stream_id, version)
        ),
    )
    if as_json:
        print_json({"stream_id": stream_id, "version": version})
    else:
        what = "all snapshots" if version is None else f"snapshot {version}"
        click.echo(f"deleted {what} of {visible(stream_id)}")


def _row(one: Snapshot) -> tuple[object, ...]:
    return one.version, local_time(one.epoch_us), brief_payload(one.data_raw, one.content_type)
