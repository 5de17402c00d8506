"""Where the files of a board are, for commands that look at them on this machine."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from shoal.errors import NotFound


def require_board(data_dir: Path) -> None:
    """Raises NotFound where no board was ever started."""
    if not (data_dir / "db" / "CURRENT").exists():
        raise NotFound(f"no board has been started on {data_dir}; name another with --data-dir")


def database_file(data_dir: Path, store: str) -> Path:
    """The SQLite file of `store`. Raises NotFound, naming the stores that are there."""
    require_board(data_dir)
    files = _database_files(data_dir)
    if store not in files:
        there = f"it has {', '.join(sorted(files))}" if files else "stores may have directories of their own"
        raise NotFound(f"{data_dir} has no database of a store {store!r}: {there}")
    return files[store]


def _database_files(data_dir: Path) -> dict[str, Path]:
    """The newest file of each store, in the generation that is in use."""
    root = data_dir / "db"
    directory = root / (root / "CURRENT").read_text("utf-8", "replace").strip()
    found: dict[str, tuple[int, Path]] = {}
    for path in directory.glob("*.db"):
        if named := re.fullmatch(r"(.+)-(\d+)\.db", path.name):
            store, created = named[1], int(named[2])
            found[store] = max(found.get(store, (0, path)), (created, path))
    return {store: path for store, (_, path) in found.items()}


def in_use(data_dir: Path) -> bool:
    """Whether a `shoald` runs on this directory."""
    try:
        descriptor = os.open(data_dir / "LOCK", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
