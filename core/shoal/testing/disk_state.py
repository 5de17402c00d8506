"""What a disk holds at some place of a `WriteLog`: what is durable, and what is not yet."""

from __future__ import annotations

from shoal.testing.write_log import ROOT, Entry, Link, Mark, Rename, Resize, Sync, SyncDir, Unlink, Write

Change = Link | Unlink | Rename
Tree = dict[int, dict[str, int]]
"""Names and nodes of every directory, by the directory's node."""


class DiskState:
    """Moves forward over a log, entry by entry."""

    def __init__(self) -> None:
        self.contents: dict[int, bytearray] = {}
        self.unsynced: dict[int, list[Write | Resize]] = {}
        self.tree: Tree = {ROOT: {}}
        self.changes: list[Change] = []
        self.marks: list[object] = []
        self._places: dict[int, tuple[int, str]] = {}

    def advance(self, entry: Entry) -> None:
        """Take one more entry as done."""
        match entry:
            case Write() | Resize():
                self.unsynced[entry.node].append(entry)
            case Sync():
                self._sync(entry.node)
            case Mark():
                self.marks.append(entry.value)
            case SyncDir():
                self._sync_dir(entry.node)
            case Link() | Unlink() | Rename():
                self._change(entry)

    def place(self, node: int) -> str:
        """The node's latest path, relative to the root."""
        names: list[str] = []
        while node != ROOT:
            node, name = self._places[node]
            names.append(name)
        return "/".join(reversed(names))

    def _change(self, change: Change) -> None:
        self.changes.append(change)
        if isinstance(change, Rename):
            self._places[change.node] = (change.to_parent, change.to_name)
        elif isinstance(change, Link):
            self._places[change.node] = (change.parent, change.name)
            if change.directory:
                self.tree[change.node] = {}
            else:
                self.contents[change.node] = bytearray()
                self.unsynced[change.node] = []

    def _sync(self, node: int) -> None:
        content = self.contents[node]
        for op in self.unsynced[node]:
            if isinstance(op, Write):
                put(content, op.offset, op.data)
            resize(content, op.size)
        self.unsynced[node] = []

    def _sync_dir(self, node: int) -> None:
        waiting: list[Change] = []
        for change in self.changes:
            if node in _directories(change):
                make(self.tree, change)
            else:
                waiting.append(change)
        self.changes = waiting


def make(tree: Tree, change: Change) -> None:
    """Change the names in `tree`."""
    names = tree[change.parent]
    match change:
        case Link():
            names[change.name] = change.node
        case Unlink():
            names.pop(change.name, None)
        case Rename():
            if names.get(change.name) == change.node:
                del names[change.name]
            tree[change.to_parent][change.to_name] = change.node


def put(content: bytearray, offset: int, data: bytes) -> None:
    """Write `data` at `offset`, with zeros before it where the content was shorter."""
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def resize(content: bytearray, size: int) -> None:
    """Cut, or extend with zeros."""
    del content[size:]
    content.extend(bytes(size - len(content)))


def _directories(change: Change) -> tuple[int, ...]:
    """Where a sync makes the change durable; a move between directories is one transaction of both."""
    return (change.parent, change.to_parent) if isinstance(change, Rename) else (change.parent,)
