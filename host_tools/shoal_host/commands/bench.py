"""`shoal bench`: the benchmark, which has options of its own."""

from __future__ import annotations

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    short_help="Measure this machine, and compare with others.",
    epilog="""\b
Examples:
  shoal bench
  shoal bench --json
""",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure shoal on this machine's disk, beside raw SQLite and other stores."""
    from shoal_host.bench.__main__ import bench as measure

    here = click.get_current_context()
    with measure.make_context("bench", list(arguments), here.parent) as inner:
        here.exit(measure.invoke(inner))
