"""Which board may be added to the group."""

from __future__ import annotations

import shoal
from shoal.address import split_address
from shoal.cluster.words import Hello
from shoal.errors import AlreadyExists, InvalidRequest
from shoal.raft.log import Member


def check_place(node_id: str | None, address: str | None) -> None:
    """Whether somebody is named. Raises InvalidRequest."""
    if node_id is None and address is None:
        raise InvalidRequest("name a board, by its node_id or its address", pointer="node_id")
    if address is not None:
        try:
            split_address(address)
        except ValueError as error:
            raise InvalidRequest(
                f"a peer address is HOST:PORT, not {address!r}", pointer="address"
            ) from error


def check_joining(hello: Hello, member: Member | None, *, alive: bool, level: int) -> None:
    """Whether a board that said hello may be added to a group at that feature level.

    `member` is who has its name, and `alive` whether a connection to that one stands. Raises AlreadyExists,
    InvalidRequest.
    """
    node_id = hello.node_id
    if member is not None and member.incarnation == hello.incarnation:
        raise AlreadyExists(f"{node_id} is in the cluster already", node_id=node_id)
    if hello.feature_level < level:
        raise InvalidRequest(
            f"{node_id} runs a release that understands feature level {hello.feature_level}, and the cluster is at "
            f"{level}: install shoal {shoal.__version__} there, as on this board, or a later release",
            pointer="node_id",
        )
    if member is not None and alive:
        raise InvalidRequest(
            f"another board of the name {node_id!r} is in the cluster, and alive: give the new one another node id",
            pointer="node_id",
        )
    if not hello.empty:
        raise InvalidRequest(
            f"board {node_id!r} holds data, perhaps from when it was a member, and only an empty board is added. Stop "
            "it, move its data directory aside, start it with --bootstrap-expect 0, and add it. To keep events that "
            f"only it has, stop it, and run there: shoal cluster add {node_id} --adopt DATA_DIR",
            pointer="node_id",
        )
