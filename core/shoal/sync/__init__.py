"""The blocking face of shoal: the same names without `await`, for scripts and threads.

    import shoal.sync

    with shoal.sync.connect("http://127.0.0.1:4589") as store:
        version = store.streams.append("user-123", shoal.NO_STREAM, [shoal.NewEvent("user_created", {})])

An event loop in a thread of its own does the work; any thread may call. Ctrl-C ends the waiting, and
what was being written may then be stored or not, as with every write whose answer does not arrive.
"""

from shoal.sync.store import Store, connect, open  # noqa: A004 - the name users expect
from shoal.sync.streams import Snapshots, Streams, Tail
from shoal.sync.subscriptions import Consumer, Subscriptions

__all__ = ["Consumer", "Snapshots", "Store", "Streams", "Subscriptions", "Tail", "connect", "open"]
