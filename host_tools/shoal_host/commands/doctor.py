"""`shoal doctor`: which step fails on the way to a working cluster, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shoal.errors import ConfigError, ShoalError
from shoal_host.cluster_boards import Asked, Boards, View, boards_of
from shoal_host.diagnosis import diagnose
from shoal_host.exits import ERROR, advice, one_line
from shoal_host.options import Target, target_options
from shoal_host.output import print_json, print_table

if TYPE_CHECKING:
    from shoal.cluster.identity import Identity
    from shoal.config import Config

CLOCK_S: Final = 5.0
"""Clocks further apart than this are worth a word."""
LISTEN_MORE_S: Final = 1.0
"""How much longer to listen than boards pause between beacons."""
_KNOCK_S: Final = 3.0

Row = tuple[str, str, str, str]
"""Step, result (ok, warning, FAILS), what was seen, what to do."""


@click.command(
    epilog="""\b
Examples:
  shoal doctor
  shoal doctor --config ./shoald.toml --url http://board-1:4589
"""
)
@click.option(
    "--config",
    metavar="FILE",
    envvar="SHOAL_CONFIG",
    show_envvar=True,
    help="On a board: its TOML file. Then keys and the secret are looked at, and other boards called.",
)
@target_options
def doctor(config: str | None, *, target: Target, as_json: bool) -> None:
    """Look at each step: address, token, disk, time, discovery, TLS, quorum. Say which fails, and what to do.

    What cannot be seen from here is left out: keys and TLS need --config on a board (or its SHOAL_ variables). Exit
    code 0 when no step fails, 1 when one does. With --json one document: {"ok", "steps": [{"step", "result", "what",
    "do"}]}.
    """
    rows = asyncio.run(_examine(config, target))
    good = all(row[1] != "FAILS" for row in rows)
    if as_json:
        names = ("step", "result", "what", "do")
        print_json({"ok": good, "steps": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        print_table(("step", "result", "what", "to do"), rows)
        click.echo("no step fails" if good else "the first step that fails is the one to mend")
    if not good:
        sys.exit(ERROR)


async def _examine(config: str | None, target: Target) -> list[Row]:
    rows: list[Row] = []
    settings, identity = await asyncio.to_thread(_settings, config, rows)
    async with boards_of(target) as boards:
        for url in boards.urls:
            rows += await _board(boards, url)
        asked = await boards.ask_all()
    found = [each.view for each in asked if each.view is not None]
    if settings is not None and settings.mode == "cluster":
        rows += await _discovery(settings, found)
    if identity is not None:
        rows += await _doors(identity, found)
    return rows + list(_quorum(asked))


# -- this machine --------------------------------------------------------------------------------


def _settings(path: str | None, rows: list[Row]) -> tuple[Config | None, Identity | None]:
    """Configuration and keys of the board that this is, if it is one. Blocks."""
    from shoal.__main__ import read_config
    from shoal.cluster.discovery import read_secret
    from shoal.cluster.identity import load_identity

    if path is None and os.environ.get("SHOAL_MODE") != "cluster":
        return None, None
    try:
        settings = read_config({"config": path}, os.environ)
    except ConfigError as error:
        rows.append(("configuration", "FAILS", str(error), "mend that key"))
        return None, None
    rows.append(("configuration", "ok", f"mode {settings.mode}, data in {settings.data_dir}", ""))
    if settings.mode != "cluster" or settings.tls_dir is None:
        return settings, None
    try:
        if {"multicast", "mdns"} & set(settings.discovery.methods):
            read_secret(settings.discovery)
        rows.append(("secret", "ok", "beacons can be signed", ""))
    except ConfigError as error:
        rows.append(("secret", "FAILS", str(error), "give all boards of the cluster the same secret"))
    try:
        identity = load_identity(settings.tls_dir)
    except ConfigError as error:
        rows.append(("keys", "FAILS", str(error), "make keys for this board: shoal ca --help"))
        return settings, None
    rows.append(("keys", "ok", f"certificate of {identity.node_id} in {identity.cluster_id}", ""))
    return settings, identity


# -- each board ----------------------------------------------------------------------------------


async def _board(boards: Boards, url: str) -> list[Row]:
    """Its address, its token, its readiness, its disk, its clock."""
    try:
        await boards.get(url, "/livez")
        rows: list[Row] = [(f"address {url}", "ok", "it answers", "")]
    except ShoalError as error:
        return [
            (f"address {url}", "FAILS", str(error), "see whether shoald runs there, and the port is right")
        ]
    sent_s = time.time()
    try:
        reply = await boards.get(url, "/v1/health")
    except ShoalError as error:
        return [*rows, ("token", "FAILS", str(error), advice(error) or "see the log of that board")]
    rows.append(("token", "ok", "it is taken", ""))
    rows.append(_disk(msgspec.json.decode(reply.body)))
    rows += _clock(reply.headers.get("Date", ""), sent_s)
    try:
        await boards.get(url, "/readyz")
        rows.append(("ready", "ok", "it takes requests", ""))
    except ShoalError as error:
        rows.append(("ready", "FAILS", str(error), "what is said there, then `shoal cluster status`"))
    return rows


def _disk(health: dict[str, Any]) -> Row:
    disk = health["disk"]
    seen = f"{disk['available_bytes'] / 2**20:,.0f} MiB of {disk['total_bytes'] / 2**20:,.0f} are free"
    if disk["level"] == "ok":
        return ("disk", "ok", seen, "")
    return ("disk", "warning", seen, "free some space: a full disk refuses appends; reads go on")


def _clock(date: str, here_s: float) -> Iterator[Row]:
    try:
        apart_s = parsedate_to_datetime(date).timestamp() - here_s
    except ValueError:
        return
    if abs(apart_s) > CLOCK_S:
        seen = f"its clock is {apart_s:+,.0f} s from this machine's"
        yield (
            "time",
            "warning",
            seen,
            "set it (NTP): events bear its time; the cluster itself needs no clock",
        )
    else:
        yield ("time", "ok", "its clock agrees with this machine's", "")


# -- the way between boards ----------------------------------------------------------------------


async def _discovery(settings: Config, found: Sequence[View]) -> list[Row]:
    """Who is heard from here, by the board's own methods."""
    from shoal.cluster.discovery import read_secret
    from shoal_host.commands.discover import listen

    methods = ", ".join(settings.discovery.methods) or "no method"
    try:
        secret = await asyncio.to_thread(read_secret, settings.discovery)
        peers, addresses = await listen(
            settings, secret, settings.discovery.interval_ms / 1000 + LISTEN_MORE_S
        )
    except (ShoalError, OSError) as error:
        return [("discovery", "FAILS", str(error), "mend that, or name boards with --seed")]
    heard = len(peers) + len(addresses)
    if heard:
        return [("discovery", "ok", f"{heard} heard by {methods}", "")]
    seeds = f"; seeds: {', '.join(settings.seeds)}" if settings.seeds else ""
    if settings.seeds or found:
        return [
            (
                "discovery",
                "warning",
                f"nobody is heard by {methods}{seeds}",
                "fine where seeds name the others",
            )
        ]
    return [
        (
            "discovery",
            "FAILS",
            f"nobody is heard by {methods}",
            "same secret, group and port on all boards; does the switch pass multicast? Else name boards with --seed",
        )
    ]


async def _doors(identity: Identity, found: Sequence[View]) -> list[Row]:
    """The peer port of each member, with this board's keys."""
    doors = {
        (member["id"], address)
        for view in found
        for member in view["members"]
        for address in member["addresses"]
    }
    return list(await asyncio.gather(*(_knock(identity, *door) for door in sorted(doors))))


async def _knock(identity: Identity, node_id: str, address: str) -> Row:
    import ssl

    from shoal.address import split_address
    from shoal.cluster.certificates import CertificateError, subject_of

    step = f"TLS to {node_id} at {address}"
    try:
        async with asyncio.timeout(_KNOCK_S):
            host, port = split_address(address)
            _, writer = await asyncio.open_connection(host, port, ssl=identity.dial, server_hostname="")
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        subject = subject_of(shown)
    except ssl.SSLError as error:
        return (
            step,
            "FAILS",
            f"no TLS: {error.reason}",
            "is it of another cluster? It needs a certificate of this one",
        )
    except CertificateError as error:
        return (step, "FAILS", str(error), "give it a certificate of this cluster")
    except (OSError, TimeoutError, ValueError) as error:
        return (
            step,
            "FAILS",
            f"no connection: {str(error) or 'it takes too long'}",
            "power, shoald, firewall, peer_listen",
        )
    if subject.node_id != node_id:
        return (
            step,
            "FAILS",
            f"{subject.node_id} answers there",
            "two boards have one address, or names were swapped",
        )
    return (step, "ok", "its certificate is of this cluster", "")


def _quorum(asked: Sequence[Asked]) -> Iterator[Row]:
    """What `shoal cluster status` finds."""
    if all(each.view is None for each in asked):
        return
    findings = [finding for finding in diagnose(asked) if finding.level != "info"]
    for finding in findings:
        result = "FAILS" if finding.level == "error" else "warning"
        yield ("quorum", result, one_line(finding.what), one_line(finding.todo))
    if not findings:
        yield ("quorum", "ok", "the cluster takes writes", "")
