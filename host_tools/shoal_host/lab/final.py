"""What every node holds once all is healed, and whether it is the same."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from shoal.errors import Unavailable
from shoal.testing.history import Placed
from shoal_host.lab.calls import placed_event
from shoal_host.lab.cluster import LabNode

CONVERGE_S: Final = 60.0
_PAGE: Final = 1_000
_POLL_S: Final = 0.2


async def read_final(nodes: Sequence[LabNode]) -> tuple[list[Placed], list[str]]:
    """The events of the first node, and a sentence for each node that has others. Raises Unavailable."""
    found = await _converge(nodes)
    stores = await asyncio.gather(*(_events(node) for node in nodes))
    digests = {node.node_id: digest(store) for node, store in zip(nodes, stores, strict=True)}
    for node, store in zip(nodes[1:], stores[1:], strict=True):
        if digests[node.node_id] != digests[nodes[0].node_id]:
            found.append(_difference(nodes[0], stores[0], node, store))
    return stores[0], found


def digest(events: Sequence[Placed]) -> str:
    """Of all events at their places."""
    return hashlib.sha256(msgspec.json.encode(events)).hexdigest()


async def _converge(nodes: Sequence[LabNode]) -> list[str]:
    """Wait until all nodes tell the same head; progress once healed is a property of its own."""
    heads: list[int | None] = []
    try:
        async with asyncio.timeout(CONVERGE_S):
            while True:
                heads = [await _head(node) for node in nodes]
                if None not in heads and len(set(heads)) == 1:
                    return []
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        told = ", ".join(f"{node.node_id} {head}" for node, head in zip(nodes, heads, strict=False))
        return [f"{CONVERGE_S:g} s after all was healed the nodes have not the same head: {told}"]


async def _head(node: LabNode) -> int | None:
    page = await node.ask("/v1/events?limit=1&consistency=local")
    return None if page is None else page["head"]


async def _events(node: LabNode) -> list[Placed]:
    events: list[Placed] = []
    after = 0
    while True:
        page = await _page(node, f"/v1/events?after={after}&limit={_PAGE}&consistency=local")
        events += map(placed_event, page["events"])
        if page["next"] >= page["head"]:
            return events
        after = page["next"]


async def _page(node: LabNode, path: str) -> dict[str, Any]:
    """What the node answers, once it does. Raises Unavailable."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CONVERGE_S):
            while (page := await node.ask(path)) is None:  # noqa: ASYNC110 - another process has no event to wait on
                await asyncio.sleep(_POLL_S)
            return page
    raise Unavailable(f"{node.node_id} does not tell its events, though all is healed")


def _difference(one: LabNode, store: Sequence[Placed], other: LabNode, others: Sequence[Placed]) -> str:
    both = zip(store, others, strict=False)
    same = next((number for number, (a, b) in enumerate(both) if a != b), min(len(store), len(others)))
    shown = [f"{events[same]}" if same < len(events) else "nothing" for events in (store, others)]
    return f"{one.node_id} and {other.node_id} differ from event {same + 1} on: {shown[0]} and {shown[1]}"
