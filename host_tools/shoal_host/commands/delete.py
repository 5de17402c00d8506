"""`shoal delete`: a stream, softly or for ever."""

from __future__ import annotations

import sys

import click

from shoal_host.commands.append import ExpectedVersion
from shoal_host.exits import ERROR, one_line
from shoal_host.options import Target, target_options, with_store
from shoal_host.output import print_json


@click.command(
    epilog="""\b
Examples:
  shoal delete user-1
  shoal delete user-1 --hard --yes
"""
)
@click.argument("stream_id", metavar="STREAM")
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

    Deleting a stream that is not there is success.
    """
    if hard and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--hard cannot be undone: say --yes as well")
        if not click.confirm(f"Delete {one_line(stream_id)} for ever?", err=True):
            sys.exit(ERROR)
    with_store(
        target, lambda store: store.streams.delete(stream_id, hard=hard, expected_version=expected_version)
    )
    if as_json:
        print_json({"stream_id": stream_id, "deleted": "hard" if hard else "soft"})
    else:
        click.echo(f"deleted {one_line(stream_id)}{' for ever' if hard else ''}")
