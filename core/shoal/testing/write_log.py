"""One ordered log of what was done to a directory: what a power cut may leave of it is built from this.

A file is a node: its bytes and its names live apart, as on a real file system. `sync` makes a node's
bytes and size durable, `sync_dir` a directory's names. Writes are kept as the whole sectors they left
in the page cache, because a disk replaces a sector wholly or not at all: a sector found later is one
of the versions it had, never the bytes of one write without those of an earlier one beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

SECTOR: Final = 512
ROOT: Final = 0
"""The node of the recorded directory itself; it is always there."""


class Link(NamedTuple):
    """A new name for a new file or directory."""

    parent: int
    name: str
    node: int
    directory: bool


class Unlink(NamedTuple):
    """A name removed."""

    parent: int
    name: str


class Rename(NamedTuple):
    """A name moved over another, atomically."""

    parent: int
    name: str
    to_parent: int
    to_name: str
    node: int


class Write(NamedTuple):
    """Whole sectors from `offset` on as they were then in the page cache, and the size of the file."""

    node: int
    offset: int
    data: bytes
    size: int


class Resize(NamedTuple):
    """The file cut, or grown with zeros, to `size`."""

    node: int
    size: int


class Sync(NamedTuple):
    """The node's bytes and size made durable."""

    node: int


class SyncDir(NamedTuple):
    """The directory's names made durable."""

    node: int


class Mark(NamedTuple):
    """Something the test noted: an acknowledgement, a question it asked."""

    value: object


Entry = Link | Unlink | Rename | Write | Resize | Sync | SyncDir | Mark


@dataclass(slots=True)
class WriteLog:
    """The entries in order; those before `start` only describe what was there at the beginning."""

    entries: list[Entry] = field(default_factory=list)
    start: int = 0

    def cuts(self) -> list[int]:
        """Counts of entries before a cut: each state of the disk once, with all the marks made in it."""
        end = len(self.entries)
        return [k for k in range(self.start, end) if not isinstance(self.entries[k], Mark)] + [end]


@dataclass(slots=True)
class _Node:
    id: int
    content: bytearray | None
    children: dict[str, _Node] = field(default_factory=dict)


class Recorder:
    """Appends to a `WriteLog` and keeps the page cache: every node's present bytes and names.

    Callers hold `lock` over the real operation and its record, so that the log's order is the truth
    whichever thread did what.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = WriteLog()
        self.lock = threading.RLock()
        self._root = _Node(ROOT, None)
        self._nodes: list[_Node] = [self._root]

    def adopt(self) -> None:
        """Take what lies in the directory already as durable; cuts begin after it."""
        for path in sorted(self.root.rglob("*")):
            if path.is_dir():
                self.link(path, directory=True)
            else:
                node = self.link(path)
                self.write(node, 0, path.read_bytes())
                self.sync(node)
        for node_id in [node.id for node in self._nodes if node.content is None]:
            self.log.entries.append(SyncDir(node_id))
        self.log.start = len(self.log.entries)

    def node(self, path: Path) -> int:
        """The node that `path` names now. KeyError when there is none."""
        return self._find(path).id

    def size(self, node: int) -> int:
        """The file's present size."""
        return len(self._bytes(node))

    def link(self, path: Path, *, directory: bool = False) -> int:
        """Record a new file or directory; returns its node."""
        parent = self._find(path.parent)
        node = _Node(len(self._nodes), None if directory else bytearray())
        self._nodes.append(node)
        parent.children[path.name] = node
        self.log.entries.append(Link(parent.id, path.name, node.id, directory))
        return node.id

    def unlink(self, path: Path) -> None:
        """Record a removed name."""
        parent = self._find(path.parent)
        del parent.children[path.name]
        self.log.entries.append(Unlink(parent.id, path.name))

    def rename(self, source: Path, target: Path) -> None:
        """Record an atomic rename."""
        parent, to_parent = self._find(source.parent), self._find(target.parent)
        node = parent.children.pop(source.name)
        to_parent.children[target.name] = node
        self.log.entries.append(Rename(parent.id, source.name, to_parent.id, target.name, node.id))

    def write(self, node: int, offset: int, data: bytes) -> None:
        """Record bytes written."""
        if not data:
            return
        content = self._bytes(node)
        end = offset + len(data)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset:end] = data
        first = offset - offset % SECTOR
        sectors = bytes(content[first : end + -end % SECTOR])
        padded = sectors.ljust(len(sectors) + -len(sectors) % SECTOR, b"\0")
        self.log.entries.append(Write(node, first, padded, len(content)))

    def resize(self, node: int, size: int) -> None:
        """Record a truncation or an extension."""
        content = self._bytes(node)
        if size == len(content):
            return
        del content[size:]
        content.extend(bytes(size - len(content)))
        self.log.entries.append(Resize(node, size))

    def sync(self, node: int) -> None:
        """Record that the node's bytes and size are durable."""
        self.log.entries.append(Sync(node))

    def sync_dir(self, path: Path) -> None:
        """Record that the directory's names are durable."""
        self.log.entries.append(SyncDir(self._find(path).id))

    def mark(self, value: object) -> None:
        """Record something of the test's own."""
        self.log.entries.append(Mark(value))

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Every file as the log says it is now."""
        yield from _files(self.root, self._root)

    def _find(self, path: Path) -> _Node:
        node = self._root
        for part in path.relative_to(self.root).parts:
            node = node.children[part]
        return node

    def _bytes(self, node: int) -> bytearray:
        content = self._nodes[node].content
        if content is None:
            raise IsADirectoryError(f"node {node} is a directory")
        return content


def _files(path: Path, node: _Node) -> Iterator[tuple[Path, bytes]]:
    for name, child in node.children.items():
        if child.content is None:
            yield from _files(path / name, child)
        else:
            yield path / name, bytes(child.content)
