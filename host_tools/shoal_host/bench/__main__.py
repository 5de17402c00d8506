"""The options of `shoal bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from shoal_host.bench import run
from shoal_host.bench.catalogue import CLUSTER, SCENARIOS
from shoal_host.options import json_option

_NAMES = list(SCENARIOS)


@click.command(
    epilog="""\b
Examples:
  shoal bench --quick
  shoal bench --only append-1 --only http
  shoal bench --cluster
  shoal bench --json > figures.json
""",
)
@json_option
@click.option("--quick", is_flag=True, help="A few minutes: smaller stores, shorter phases.")
@click.option(
    "--only", multiple=True, metavar="NAME", type=click.Choice(_NAMES), help="Only this scenario; repeat."
)
@click.option("--cluster", is_flag=True, help="Only what three nodes do, beside etcd and NATS.")
@click.option("--list", "as_list", is_flag=True, help="Say what there is to measure.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="A directory on the disk to measure. Default: the current one.",
)
def bench(
    *, as_json: bool, quick: bool, only: tuple[str, ...], cluster: bool, as_list: bool, data_dir: Path | None
) -> int:
    """Measure shoal on this machine's disk, beside fdatasync, raw SQLite and other stores.

    Every append is durable before its answer, in every store. Progress goes to stderr. Exit code 0: all was
    measured, whether targets were met or not; 1: something could not be measured.
    """
    if as_list:
        for scenario in SCENARIOS.values():
            click.echo(f"{scenario.name:26}{scenario.about}")
        return 0
    wanted = (*only, *CLUSTER) if cluster else only
    return run(json=as_json, quick=quick, only=wanted, data_dir=data_dir)


def main(arguments: Sequence[str]) -> int:
    """Run with these arguments; the result is the exit code. Raises click.UsageError."""
    code: int = bench.main(list(arguments), prog_name="shoal bench", standalone_mode=False)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
