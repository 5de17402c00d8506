"""Putting a complete new generation of the databases in the old one's place, the journal with it.

Several files change, so word of what is to be done is left first, durably and whole, in `db/INSTALL`. Before that
the directory is the old state; from then on it is the new one: each step may be repeated, and a start after a
power cut goes through all of them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from shoal.errors import StorageError
from shoal.raft.log import Configuration
from shoal.storage.engine import store_file
from shoal.storage.files import Files
from shoal.storage.generation import Places, write_current, write_whole
from shoal.storage.journal import Journal

INSTALL = "INSTALL"
HOLLOW = "HOLLOW"
"""The databases were set aside, and the board has none until a copy of the leader's is installed."""


class Install(msgspec.Struct, frozen=True, array_like=True):
    """What is to be done: `generation` holds all up to entry `index` and is durable; `replaces` goes.

    `old_stores` are the stores whose files of the generation that goes may lie in directories of their own.
    """

    index: int
    term: int
    configuration: Configuration
    configuration_index: int
    generation: str
    replaces: str
    old_stores: Sequence[tuple[str, int]]


def leave_word(files: Files, places: Places, install: Install) -> None:
    """From here on the install happens, whatever is cut. The new generation must be durable, names included."""
    write_whole(files, places.root / INSTALL, msgspec.msgpack.encode(install))


def pending_install(files: Files, places: Places) -> Install | None:
    """An install that was begun and is not over."""
    path = places.root / INSTALL
    if not path.exists():
        return None
    try:
        return msgspec.msgpack.decode(files.read(path), type=Install)
    except msgspec.MsgspecError as error:
        raise StorageError(
            f"{path} is damaged ({error}): restore the data directory from a backup, "
            "or remove this board and add it again"
        ) from error


def complete(files: Files, places: Places, journal: Journal, install: Install) -> None:
    """Do what `db/INSTALL` says, from any place at which it was cut. Nobody has the old generation open.

    Raises DiskFull or OSError: the next start goes on.
    """
    root = places.root
    journal.reset_to(install.index, install.term, install.configuration, install.configuration_index)
    write_current(files, root, install.generation)
    for name, created_index in install.old_stores:
        _remove_database(files, places.of_store(install.replaces, name) / store_file(name, created_index))
    empty(files, places.directory(install.replaces))
    _remove_directory(files, places.directory(install.replaces))
    if HOLLOW in files.names(root):
        files.unlink(root / HOLLOW)
    files.unlink(root / INSTALL)
    files.sync_dir(root)


def empty(files: Files, directory: Path) -> None:
    """Remove all files of a directory that is ours alone."""
    if directory.exists():
        for name in files.names(directory):
            files.unlink(directory / name)


def _remove_database(files: Files, path: Path) -> None:
    """Remove a database with what SQLite keeps beside it, and its directory when that is empty."""
    if not path.parent.exists():
        return
    names = files.names(path.parent)
    for suffix in ("", "-wal", "-shm"):
        if path.name + suffix in names:
            files.unlink(path.with_name(path.name + suffix))
    files.sync_dir(path.parent)
    _remove_directory(files, path.parent)


def _remove_directory(files: Files, directory: Path) -> None:
    if directory.exists() and not files.names(directory):
        files.rmdir(directory)
        files.sync_dir(directory.parent)
