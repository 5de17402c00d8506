"""Which streams of an ordered subscription have parked events, and how much of that is being delivered again."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.model.window import Item


class ParkedStreams:
    """What is parked by stream, as soon as it is parked here, decided or not.

    A stream with parked events is *blocked*. One all of which is being delivered again takes what comes after it
    along: that *joins*. A stream *stops* when an event that was delivered again is parked again.
    """

    def __init__(self, totals: Mapping[str, int]) -> None:
        self._counts = {stream_id: (total, 0) for stream_id, total in totals.items()}
        self._joined: set[int] = set()
        self._stopped: set[str] = set()

    def blocks(self, stream_id: str) -> bool:
        """Whether the stream has parked events."""
        return stream_id in self._counts

    def stops(self, stream_id: str) -> bool:
        """Whether no more of the stream is to be delivered again."""
        return stream_id in self._stopped

    def go_on(self) -> None:
        """Streams that had stopped go on."""
        self._stopped.clear()

    def joins(self, stream_id: str) -> bool:
        """Whether what comes after the stream's parked events is to be delivered again with them."""
        total, replaying = self._counts.get(stream_id, (0, 0))
        return 0 < total == replaying

    def parked(self, item: Item, *, joins: bool) -> None:
        """The item is parked; for a replay that is once more, and its stream stops."""
        if item.replay:
            self._stopped.add(item.stream_id)
            self._count(item, 0, -1)
        else:
            self._count(item, 1, int(joins))
            if joins:
                self._joined.add(item.position)

    def not_parked(self, item: Item) -> None:
        """The contrary of `parked`: that was not decided."""
        if item.replay:
            self._stopped.discard(item.stream_id)
            self._count(item, 0, 1)
        else:
            self._count(item, -1, -int(item.position in self._joined))
            self._joined.discard(item.position)

    def replayed(self, item: Item) -> None:
        """A parked event is to be delivered again."""
        if item.position not in self._joined:
            self._count(item, 0, 1)
        self._joined.discard(item.position)

    def settled(self, item: Item) -> None:
        """A replay was settled."""
        self._count(item, -1, -1)

    def not_settled(self, item: Item) -> None:
        """The contrary of `settled`: that was not decided."""
        self._count(item, 1, 1)

    def forget(self, stream_id: str) -> None:
        """The stream was deleted, and what was parked of it is gone."""
        self._counts.pop(stream_id, None)
        self._stopped.discard(stream_id)

    def _count(self, item: Item, more: int, more_replaying: int) -> None:
        total, replaying = self._counts.get(item.stream_id, (0, 0))
        total += more
        if total > 0:
            self._counts[item.stream_id] = (total, replaying + more_replaying)
        else:  # also when less was known to be parked: order was not kept when it was
            self._counts.pop(item.stream_id, None)
