"""`shoal aggregate`: a stream folded into one state."""

from __future__ import annotations

import click
import msgspec

from shoal.types import MAX_VERSION, AggregateResult
from shoal_host.exits import visible
from shoal_host.options import NAME, Target, target_options, with_store
from shoal_host.output import note, print_json, print_table


@click.command(
    epilog="""\b
Examples:
  shoal aggregate board-kitchen
  shoal aggregate account-7 --at 41
  shoal aggregate account-7 --tagged --json
"""
)
@click.argument("stream_id", metavar="STREAM", type=NAME)
@click.option("--at", type=click.IntRange(0, MAX_VERSION), metavar="VERSION", help="Fold up to this version.")
@click.option(
    "--fold",
    type=click.Choice(("left", "right")),
    default="left",
    show_default=True,
    help="First or last first.",
)
@click.option("--tagged", is_flag=True, help='Keep the tags: {"$sum": n}, {"$overwrite": v}.')
@target_options
def aggregate(
    target: Target, stream_id: str, *, at: int | None, fold: str, tagged: bool, as_json: bool
) -> None:
    """Fold the data of STREAM's events into one state, from its latest snapshot on.

    Fields tagged {"$sum": n} add up, all others replace. With --json one document: {"version", "state"}.
    """
    result: AggregateResult = with_store(
        target,
        lambda store: store.aggregate(
            stream_id, finalize=not tagged, fold="right" if fold == "right" else "left", at=at
        ),
    )
    if as_json:
        print_json(result)
        return
    rows = [(key, _shown(value)) for key, value in sorted(result.state.items())]
    print_table(("field", "value"), rows)
    note(f"{visible(stream_id)} at version {result.version}")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
