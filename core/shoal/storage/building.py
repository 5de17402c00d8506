"""The generation of databases that a raft_snapshot fills, and what of it a life before has left."""

from __future__ import annotations

from pathlib import Path

import apsw

from shoal.config import valid_store_name
from shoal.errors import StorageError
from shoal.storage.engine import CATALOG, CHECKPOINT_BYTES, is_disk_full, store_file
from shoal.storage.files import Files
from shoal.storage.generation import Places, current_generation, next_generation
from shoal.storage.incoming import Incoming, IncomingCatalog, IncomingStore
from shoal.storage.install import empty
from shoal.storage.schema import CATALOG_MIGRATIONS, STORE_MIGRATIONS
from shoal.storage.transfer import CATALOG_STORE, Manifest, StoreAt, refused

COMMIT_BYTES = 8 * 1024 * 1024
ROOM_BYTES = CHECKPOINT_BYTES + COMMIT_BYTES
"""Beside the databases themselves: the WAL of the one that is written."""

StoreKey = tuple[str, int]


class Building:
    """Its files. Every event that is committed stays over crashes; the catalogue names the files begun."""

    def __init__(self, files: Files, places: Places, *, vfs: str | None) -> None:
        self._files = files
        self._places = places
        self._vfs = vfs
        self.replaces = current_generation(files, places)
        self.generation = next_generation(self.replaces)
        self.directory = places.directory(self.generation)
        self._catalog: IncomingCatalog | None = None
        self.stores: dict[StoreKey, IncomingStore] = {}
        self._resume()

    def _resume(self) -> None:
        """Take up what a life before left, or begin anew if it cannot be read."""
        if not (self.directory / CATALOG).exists():
            self.abandon()
            return
        try:
            self._catalog = self._open_catalog(0)
            for key in self._catalog.stores():
                self.stores[key] = IncomingStore(self.path_of(key), (), vfs=self._vfs)
        except (apsw.Error, StorageError) as error:
            if is_disk_full(error):
                raise
            self.abandon()

    # -- the databases ---------------------------------------------------------------------------

    @property
    def catalog(self) -> IncomingCatalog:
        """The catalogue. Raises TransferRefused before `begin`."""
        if self._catalog is None:
            raise refused("it does not begin with a manifest")
        return self._catalog

    def begin(self, manifest: Manifest) -> None:
        """Make the files that are not there, and go on with the others."""
        catalog_schema, store_schema = manifest.schemas
        if self._catalog is not None:
            self._catalog.rollback()
            kept = {store.schema for store in self.stores.values()}
            if self._catalog.schema != catalog_schema or kept - {store_schema}:
                self.abandon()
        if self._catalog is None:
            self._files.mkdir(self.directory)
            self._catalog = self._open_catalog(catalog_schema)
        for plan in manifest.stores:
            self.open_store(plan.key, store_schema).begin_after(plan.after)

    def _open_catalog(self, schema: int) -> IncomingCatalog:
        return IncomingCatalog(self.directory / CATALOG, CATALOG_MIGRATIONS[:schema], vfs=self._vfs)

    def open_store(self, key: StoreKey, schema: int) -> IncomingStore:
        """A store's file, made with that many migrations if it is not there. Raises TransferRefused for a bad name."""
        found = self.stores.get(key)
        if found is None:
            if not valid_store_name(key[0]) or key[1] < 1:
                raise refused(f"{key[0]!r} is no name of a store")
            path = self.path_of(key)
            self._files.mkdir(path.parent)
            found = IncomingStore(path, STORE_MIGRATIONS[:schema], vfs=self._vfs)
            self.stores[key] = found
            found.settle()
            self.catalog.add_store(*key)  # last: a file that is named is there, and can be read
        return found

    def remove_store(self, key: StoreKey) -> None:
        """A store was dropped meanwhile."""
        path = self.path_of(key)
        self.catalog.remove_store(*key)
        self.stores.pop(key).close()
        for name in self._files.names(path.parent):
            if name.startswith(path.name):
                self._files.unlink(path.parent / name)

    def store(self, key: StoreKey) -> IncomingStore:
        """A store. Raises TransferRefused if there is none."""
        if key not in self.stores:
            raise refused(f"there is no store {key[0]!r} of entry {key[1]}")
        return self.stores[key]

    def database(self, name: str) -> Incoming:
        """A store by its name, or the catalogue. Raises TransferRefused if there is none."""
        if name == CATALOG_STORE:
            return self.catalog
        for (each, _), store in self.stores.items():
            if each == name:
                return store
        raise refused(f"there is no store {name!r}")

    def databases(self) -> list[Incoming]:
        """All of them."""
        return [*self.stores.values(), self.catalog]

    def cursor(self) -> list[StoreAt]:
        """How far each store is; all of it is committed."""
        self.commit_stores()
        return [StoreAt(*key, *store.last()) for key, store in sorted(self.stores.items())]

    def commit_stores(self) -> None:
        """Commit the stores; the catalogue is committed when all of it has come."""
        for store in self.stores.values():
            store.commit()

    # -- files -----------------------------------------------------------------------------------

    def path_of(self, key: StoreKey) -> Path:
        """A store's file."""
        return self._places.of_store(self.generation, key[0]) / store_file(*key)

    def missing_bytes(self, manifest: Manifest) -> dict[Path, int]:
        """By disk (a directory that lies on it): the bytes that are still to be written there."""
        planned = [(self.directory / CATALOG, manifest.catalog_bytes)]
        planned += [(self.path_of(plan.key), plan.size_bytes) for plan in manifest.stores]
        disks: dict[int, Path] = {}
        missing: dict[Path, int] = {}
        for path, size in planned:
            directory = next(each for each in path.parents if each.exists())
            disk = disks.setdefault(directory.stat().st_dev, directory)
            here = path.stat().st_size if path.exists() else 0
            missing[disk] = missing.get(disk, ROOM_BYTES) + max(0, size - here)
        return missing

    def make_durable(self) -> None:
        """Everything into the files, closed and synced, with their names."""
        paths = [database.path for database in self.databases()]
        for database in self.databases():
            database.settle()
        self.close()
        for path in paths:
            fd = self._files.open(path)
            self._files.sync_data(fd)
            self._files.close(fd)
        for directory in dict.fromkeys(path.parent for path in paths):
            for each in (directory, directory.parent, directory.parent.parent):
                self._files.sync_dir(each)

    def old_stores(self) -> list[StoreKey]:
        """The stores of the generation in use, which is closed, and those whose creation it had not committed."""
        path = self._places.directory(self.replaces) / CATALOG
        if not path.exists():
            return []
        old = IncomingCatalog(path, (), vfs=self._vfs)
        try:
            return sorted({*old.stores(), *self.stores})
        finally:
            old.close()

    def abandon(self) -> None:
        """Forget what has come, and remove its files."""
        self.close()
        for directory in (self.directory, *self._places.others(self.generation)):
            empty(self._files, directory)

    def close(self) -> None:
        """Close the files; what is committed stays."""
        for store in self.stores.values():
            store.close()
        self.stores.clear()
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
