"""`shoal verify`: whether every byte that a reader could be given is as it was stored."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from shoal_host.data_dir import require_board
from shoal_host.exits import DAMAGED, one_line
from shoal_host.options import data_dir_option, json_option
from shoal_host.output import print_json
from shoal_host.progress import LongWork


@click.command(
    epilog="""\b
Examples:
  shoal verify
  shoal verify --data-dir ./shoal-data --json
"""
)
@data_dir_option
@json_option
def verify(*, data_dir: Path, as_json: bool) -> None:
    """Check the files of a board on this machine, while its shoald is stopped.

    Exit code 0 if all is well, 7 if something is damaged; then each finding says where. With --json one
    document: {"ok", "segments", "records", "pending", "stores", "streams", "events", "snapshots", "problems",
    "notes", "subscriptions"}; `pending` entries are safe in the journal, and in the database after the next start.
    """
    from shoal.storage.verify import verify as check

    require_board(data_dir)
    with LongWork("verifying events") as work:
        found = check(data_dir, progress=lambda _what, count: work.advance(count - work.done))
    if as_json:
        print_json({"ok": found.ok} | msgspec.structs.asdict(found))
    else:
        for problem in found.problems:
            click.echo(one_line(f"{problem.where}: {problem.what}"))
        verdict = "all is as it was stored" if found.ok else f"{len(found.problems)} problems"
        click.echo(
            f"{verdict}: {found.stores} stores, {found.streams} streams, {found.events} events, "
            f"{found.snapshots} snapshots, {found.subscriptions} subscriptions; "
            f"journal: {found.segments} segments, {found.records} records"
        )
        for note in found.notes:
            click.echo(one_line(note))
        if found.pending:
            click.echo(
                f"{found.pending} entries of the journal are not in the database yet; the next start puts them there"
            )
        if not found.ok:
            click.echo(one_line(_advice(data_dir)))
    if not found.ok:
        sys.exit(DAMAGED)


def _advice(data_dir: Path) -> str:
    db = data_dir / "db"
    return (
        f"If only the database is damaged: set it aside (mv {db} {db}.damaged) and start the board; it is made again "
        "where the journal holds everything, else the start is refused. Or restore a backup"
    )
