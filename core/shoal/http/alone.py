"""A board alone, as the cluster of one that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from shoal.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from shoal.http.context import ServedNode


class Alone:
    """See shoal.http.context.ServedCluster and ServedMembers."""

    def __init__(self, node: ServedNode) -> None:
        self._node = node

    @property
    def members(self) -> Alone:
        """Nobody but this board."""
        return self

    def view(self) -> dict[str, Any]:
        """A leader whom nobody follows; `match_index` is all it has."""
        info = self._node.info()
        names = ("cluster_id", "node_id", "role", "term", "commit_index", "applied_index")
        own = {
            "id": info["node_id"],
            "url": "",
            "role": "leader",
            "match_index": info["commit_index"],
            "lag": 0,
            "alive": True,
            "addresses": [],
        }
        return {name: info[name] for name in names} | {
            "leader": info["node_id"],
            "last_index": info["commit_index"],
            "last_term": info["term"],
            "members": [own],
            "quorum": {"size": 1, "alive": 1, "margin": 0},
            "met": [],
            "disk_full": bool(info.get("disk_full")),
            "removed": False,
            "status": "",
        }

    def obstacle(self) -> Unavailable | None:
        """It depends on nobody."""
        return None

    @property
    def lag_ms(self) -> int:
        """There is nobody to lag behind."""
        return 0

    def stats(self) -> dict[str, float]:
        """Gauges, as a leader without followers has them."""
        info = self._node.info()
        return {
            "is_leader": 1.0,
            "term": info["term"],
            "commit_index": info["commit_index"],
            "applied_index": info["applied_index"],
            "lag_seconds": 0.0,
            "peers_connected": 0,
            "quorum_margin": 0,
        }

    async def add(self, node_id: str | None, address: str | None = None, role: str = "voter") -> str:  # noqa: ARG002 - a port
        """Raises InvalidRequest, as all that follow."""
        _refuse()

    async def remove(self, node_id: str) -> None:  # noqa: ARG002 - a port
        """See `add`."""
        _refuse()

    async def promote(self, node_id: str) -> None:  # noqa: ARG002 - a port
        """See `add`."""
        _refuse()

    async def transfer(self, target: str | None) -> str:  # noqa: ARG002 - a port
        """See `add`."""
        _refuse()

    async def recover(self, node_id: str, cluster_id: str) -> None:  # noqa: ARG002 - a port
        """See `add`."""
        _refuse()


def _refuse() -> NoReturn:
    raise InvalidRequest(
        "this board is alone: to have others with it, start it with mode = cluster and a certificate for its own "
        "cluster id and node id; its data stays"
    )
