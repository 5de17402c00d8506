"""`shoal lab`: real nodes under faults, judged by what clients saw."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal_host.exits import ERROR, one_line
from shoal_host.options import json_option
from shoal_host.output import note, print_json, print_table

if TYPE_CHECKING:
    from shoal_host.lab.report import Report


@click.command(
    epilog="""\b
Examples:
  shoal lab
  shoal lab --nodes 3 --minutes 10 --seed 7
  shoal lab --nodes 1 --faults kill,slow-disk --data-dir ./lab --json
  shoal lab --check ./lab/history.ndjson
"""
)
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="Nodes to start.")
@click.option(
    "--minutes", type=click.FloatRange(0.05, 1440), default=1.0, show_default=True, help="How long to run."
)
@click.option(
    "--seed", type=click.IntRange(0), help="Gives the same faults again. [default: drawn, and shown]"
)
@click.option(
    "--faults",
    metavar="LIST",
    default="",
    help="kill,pause,cut,one-way,delay,slow-disk,full-disk, or some of them. [default: all there can be]",
)
@click.option(
    "--clients", type=click.IntRange(1, 200), default=8, show_default=True, help="Who append and read."
)
@click.option(
    "--network",
    type=click.Choice(["auto", "namespaces", "proxies"]),
    default="auto",
    show_default=True,
    help="Namespaces need root.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="An empty directory; what is in it stays. [default: a temporary one, kept if something is wrong]",
)
@click.option(
    "--check",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Judge the history of an earlier run again, and run nothing.",
)
@json_option
def lab(
    *,
    nodes: int,
    minutes: float,
    seed: int | None,
    faults: str,
    clients: int,
    network: str,
    data_dir: Path | None,
    check: Path | None,
    as_json: bool,
) -> None:
    """Torment real nodes and look whether the store keeps its promises.

    Nodes are killed, paused, cut off in one way or both, delayed, given slow and full disks, while clients append
    at expected versions, read with each consistency and consume a subscription, at all of them. In the end all
    nodes are killed at once and started again, and it is judged: nothing acknowledged is lost, nothing is there
    twice, versions and positions have no gaps, reads are linearizable, every event was delivered, and nothing
    settled comes again.

    The report has a row for each fault: how often it came, what it met, and the longest time without an
    acknowledgement while no second node was at fault. Exit code 1 says that something is wrong, or that a fault
    met no traffic. The same --seed gives the same faults and the same clients, though not the same moments.
    """
    from shoal_host.lab.recorder import read_lines
    from shoal_host.lab.report import judge
    from shoal_host.lab.runner import Plan, run
    from shoal_host.lab.schedule import choose_kinds

    if check is not None:
        report = judge(read_lines(check), history=str(check))
    else:
        wanted = [name.strip() for name in faults.split(",") if name.strip()]
        kinds = choose_kinds(wanted, nodes)
        directory = data_dir or Path(tempfile.mkdtemp(prefix="shoal-lab-"))
        seed = secrets.randbelow(10**6) if seed is None else seed
        plan = Plan(
            nodes,
            minutes * 60,
            seed,
            kinds,
            directory.absolute(),
            network,  # type: ignore[arg-type]  # Click has checked the choice
            clients,
            asked=bool(wanted),
        )
        try:
            report = asyncio.run(run(plan, _tell))
        except BaseException:
            if data_dir is None:
                note(f"shoal: what there is stays in {directory}")
            raise
        if data_dir is None and not report.violations:
            shutil.rmtree(directory)
    _show(report, as_json=as_json)
    if report.violations:
        sys.exit(ERROR)


def _tell(what: str) -> None:
    note(one_line(what))


def _show(report: Report, *, as_json: bool) -> None:
    from shoal_host.lab.report import fields

    if as_json:
        print_json(fields(report))
        return
    elections = "" if report.elections is None else f", {report.elections} elections"
    click.echo(
        f"seed {report.seed}, {report.nodes} nodes, {report.seconds:g} s, network {report.network}: "
        f"{report.operations:,} operations, {report.acked:,} appends acknowledged, "
        f"{report.events:,} events in the end{elections}"
    )
    print_table(
        ("fault", "times", "operations", "acked", "acked while it stayed", "longest gap"),
        [
            (row.fault, row.times, row.operations, row.acked, row.acked_during, f"{row.longest_gap_ms} ms")
            for row in report.faults
        ],
    )
    print_table(("outcome", "operations"), sorted(report.outcomes.items()))
    for violation in report.violations:
        click.echo(one_line(f"WRONG: {violation}"))
    click.echo(f"{len(report.violations)} violations" if report.violations else "no violations")
    if Path(report.history).exists():
        click.echo(f"history: {report.history}")
