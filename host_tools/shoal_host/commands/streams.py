"""`shoal streams`: which streams there are."""

from __future__ import annotations

import click

from shoal.types import StreamsPage
from shoal_host.exits import visible
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import note, print_json, print_table


@click.command(
    epilog="""\b
Examples:
  shoal streams
  shoal streams --prefix board-
  shoal streams --pattern 'order-*-eu' --json
"""
)
@click.option("--prefix", default="", metavar="TEXT", help="Streams whose id begins with this.")
@click.option(
    "--pattern", type=NAME, metavar="PATTERN", help="Streams whose id matches; * any run, ? one character."
)
@click.option("--after", type=NAME, metavar="STREAM", help="Streams after this one.")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=1_000, show_default=True, help="Most streams to show."
)
@click.option("--system", is_flag=True, help="The store's own streams as well.")
@target_options
def streams(
    target: Target,
    *,
    prefix: str,
    pattern: str | None,
    after: str | None,
    count: int,
    system: bool,
    as_json: bool,
) -> None:
    """List the streams, sorted, with the version each is at.

    With --json one document: {"streams": [{"stream_id", "version"}], "next"}.
    """
    page: StreamsPage = with_store(
        target, lambda store: store.streams.list_page(prefix, pattern, after, count, system=system)
    )
    if as_json:
        print_json(page)
        return
    print_table(
        ("stream", "version"), [(visible(stream.stream_id), stream.version) for stream in page.streams]
    )
    if page.next is not None:
        note(f"there are more: --after {visible(page.next)}")
