"""Generations of the databases: which is in use, and where the files of each lie.

`db/CURRENT` names the one in use. A store with a directory of its own has its file there: of the first generation
in the directory itself, as releases before raft_snapshots had it, of later ones in `g<number>` under it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shoal.config import Config
from shoal.errors import StorageError
from shoal.storage.files import Files

CURRENT = "CURRENT"
FIRST_GENERATION = "g1"
_GENERATION = re.compile("g[0-9]+")


class Places(msgspec.Struct, frozen=True):
    """Where a data directory keeps its databases; `store_directory` gives None for a store without its own."""

    data_dir: Path
    store_directory: Callable[[str], Path | None] = lambda _: None
    other_directories: Sequence[Path] = ()
    """Those that stores have of their own, as far as the settings name them."""

    @property
    def root(self) -> Path:
        """Of all generations."""
        return self.data_dir / "db"

    def directory(self, generation: str) -> Path:
        """Of a generation's catalogue, and of the stores that have none of their own."""
        return self.root / generation

    def of_store(self, generation: str, name: str) -> Path:
        """Of a store's file."""
        own = self.store_directory(name)
        return self.directory(generation) if own is None else _under(own, generation)

    def others(self, generation: str) -> list[Path]:
        """Those that stores have of their own."""
        return [_under(each, generation) for each in self.other_directories]


def places_of(config: Config) -> Places:
    """As the configuration has them."""

    def directory_of(name: str) -> Path | None:
        own = config.store(name).data_dir
        return None if own == config.data_dir else own / "db"

    others = dict.fromkeys(directory_of(store.name) for store in config.stores)
    return Places(config.data_dir, directory_of, [each for each in others if each is not None])


def _under(own: Path, generation: str) -> Path:
    return own if generation == FIRST_GENERATION else own / generation


def current_generation(files: Files, places: Places) -> str:
    """The generation in use, made on first start. Raises StorageError when CURRENT does not name one."""
    root = places.root
    files.mkdir(root)
    if CURRENT not in files.names(root):
        files.mkdir(root / FIRST_GENERATION)
        write_current(files, root, FIRST_GENERATION)
        files.sync_dir(places.data_dir)
    name = files.read(root / CURRENT).decode("ascii", "replace").strip()
    if _GENERATION.fullmatch(name) is None:
        raise StorageError(
            f"{root / CURRENT} does not name a generation of the database, such as {FIRST_GENERATION}: "
            f"write the name of the directory beside it into it, or restore {places.data_dir} from a backup"
        )
    files.mkdir(places.directory(name))
    return name


def next_generation(name: str) -> str:
    """The one built beside generation `name`."""
    return f"g{int(name[1:]) + 1}"


def write_current(files: Files, root: Path, name: str) -> None:
    """Atomically make `name` the generation in use."""
    write_whole(files, root / CURRENT, name.encode())


def write_whole(files: Files, path: Path, content: bytes) -> None:
    """Write a small file durably: it is there as a whole, or as it was before."""
    temporary = path.with_name(path.name + ".new")
    if temporary.name in files.names(path.parent):
        files.unlink(temporary)
    fd = files.create(temporary)
    files.write(fd, content, 0)
    files.sync_data(fd)
    files.close(fd)
    files.replace(temporary, path)
    files.sync_dir(path.parent)
