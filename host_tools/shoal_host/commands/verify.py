"""`shoal verify`: whether every byte that a reader could be given is as it was stored."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shoal_host.exits import DAMAGED, one_line
from shoal_host.options import data_dir_option, json_option
from shoal_host.output import print_json


@click.command(
    epilog="""\b
Example:
  shoal verify --data-dir ./shoal-data
"""
)
@data_dir_option
@json_option
def verify(*, data_dir: Path, as_json: bool) -> None:
    """Check the files of a board on this machine, while its shoald is stopped.

    Exit code 0 if all is well, 7 if something is damaged; then each finding says where.
    """
    from shoal.storage.verify import verify as check

    report = check(data_dir)
    if as_json:
        print_json(report)
    else:
        for line in report.lines():
            click.echo(one_line(line))
    if report.damaged:
        sys.exit(DAMAGED)
