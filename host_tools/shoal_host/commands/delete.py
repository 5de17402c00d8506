"""`shoal delete`: a stream, softly or for ever."""

from __future__ import annotations

import sys

import click

from shoal.errors import StreamNotFound, StreamTombstoned
from shoal.store.api import Store
from shoal_host.commands.append import ExpectedVersion
from shoal_host.exits import ERROR, visible
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import print_json


@click.command(
    epilog="""\b
Examples:
  shoal delete user-1
  shoal delete user-1 --hard --yes
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.option("--hard", is_flag=True, help="For ever: the id can never be used again.")
@click.option(
    "--expected-version",
    type=ExpectedVersion(),
    default="any",
    show_default=True,
    help="Version the stream must have.",
)
@click.option("--yes", is_flag=True, help="Do not ask before --hard.")
@target_options
def delete(
    target: Target, stream_id: str, *, hard: bool, expected_version: int, yes: bool, as_json: bool
) -> None:
    """Delete STREAM: it reads as missing, and an append opens it again with its numbering going on.

    Deleting a stream that is not there is success. With --json one document: {"stream_id", "deleted"}, where
    "deleted" is "soft", or "hard" for a stream that is gone for ever, from now on or since an earlier delete.
    """
    if hard and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--hard cannot be undone: say --yes as well")
        if not click.confirm(f"Delete {visible(stream_id)} for ever?", err=True):
            sys.exit(ERROR)

    async def gone_for_ever(store: Store) -> bool:
        await store.streams.delete(stream_id, hard=hard, expected_version=expected_version)
        return hard or await _is_tombstoned(store, stream_id)

    for_ever = with_store(target, gone_for_ever)
    if as_json:
        print_json({"stream_id": stream_id, "deleted": "hard" if for_ever else "soft"})
    elif for_ever and not hard:
        click.echo(f"{visible(stream_id)} was deleted for ever before")
    else:
        click.echo(f"deleted {visible(stream_id)}{' for ever' if hard else ''}")


async def _is_tombstoned(store: Store, stream_id: str) -> bool:
    """Whether a soft delete met a stream that was deleted for ever: the answer is the same for both."""
    try:
        await store.streams.read_page(stream_id, None, 1)
    except StreamTombstoned:
        return True
    except StreamNotFound:
        return False
    return False  # opened again since
