"""`shoal discover`: which boards can be heard from this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import click

from shoal_host.options import json_option
from shoal_host.output import note, print_json, print_table
from shoal_host.progress import LongWork

if TYPE_CHECKING:
    from shoal.cluster.beacon import Peer
    from shoal.config import Config

_LOOK_S: Final = 0.2


@click.command(
    epilog="""\b
Examples:
  shoal discover --secret-file ./secret
  shoal discover --discovery mdns --for 3 --json
"""
)
@click.option(
    "--config", metavar="FILE", envvar="SHOAL_CONFIG", show_envvar=True, help="TOML file, as shoald takes it."
)
@click.option("--discovery", metavar="LIST", help="Methods: multicast, mdns, k8s, with commas between.")
@click.option("--secret-file", metavar="FILE", help="File with the secret that signs the beacons.")
@click.option(
    "--for",
    "listen_s",
    type=click.FloatRange(0.1, 600),
    metavar="SECONDS",
    help="How long to listen; without it a second more than the time between beacons.",
)
@json_option
def discover(
    *,
    config: str | None,
    discovery: str | None,
    secret_file: str | None,
    listen_s: float | None,
    as_json: bool,
) -> None:
    """Listen for boards and show them by cluster. Nothing is sent but questions to mDNS and the DNS.

    Every setting is also a SHOAL_DISCOVERY_... variable. With --json one document: {"clusters": [{"cluster_id",
    "boards": [{"node_id", "addresses", "method"}]}], "addresses"}; `addresses` are those without a board's name.
    """
    from shoal.__main__ import read_config
    from shoal.cluster.discovery import read_secret

    given = {"discovery.methods": discovery, "discovery.secret_file": secret_file}
    settings = read_config({"config": config, "mode": "cluster"} | given, os.environ)
    duration_s = listen_s or settings.discovery.interval_ms / 1000 + 1
    secret = read_secret(settings.discovery)
    peers, addresses = asyncio.run(listen(settings, secret, duration_s))
    if as_json:
        print_json({"clusters": _clusters(peers), "addresses": addresses})
        return
    named = [
        (peer.cluster_id or "none yet", peer.node_id, " ".join(peer.addresses), peer.method) for peer in peers
    ]
    rows = [*sorted(named), *(("", "", address, "") for address in addresses)]
    if rows:
        print_table(("cluster", "board", "addresses", "method"), rows)
    else:
        methods = settings.discovery.methods
        hint = "the boards must use it too, on this network"
        if "multicast" in methods:
            hint = "the secret, group and port must be the boards' own"
        note(f"nobody was heard in {duration_s:g} s by {', '.join(methods) or 'no method'}: {hint}")


async def listen(config: Config, secret: bytes, duration_s: float) -> tuple[list[Peer], list[str]]:
    """Boards that are heard for so long, and addresses without a board's name. Raises OSError."""
    from shoal.clock import SystemClock
    from shoal.cluster.discovery import Discovery

    ears = Discovery(config, None, secret, SystemClock())
    listening = asyncio.create_task(ears.run())
    try:
        with LongWork("boards heard") as work, suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                while True:
                    work.advance(len(ears.peers()) - work.done)
                    await asyncio.sleep(_LOOK_S)
        peers = ears.peers()
        named = {address for peer in peers for address in peer.addresses}
        return peers, [address for address in ears.addresses() if address not in named]
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


def _clusters(peers: Sequence[Peer]) -> list[dict[str, Any]]:
    ordered = sorted(peers, key=lambda peer: (peer.cluster_id, peer.node_id))
    return [
        {
            "cluster_id": cluster_id,
            "boards": [
                {"node_id": peer.node_id, "addresses": peer.addresses, "method": peer.method}
                for peer in group
            ],
        }
        for cluster_id, group in groupby(ordered, key=lambda peer: peer.cluster_id)
    ]
