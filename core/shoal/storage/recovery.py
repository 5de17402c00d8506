"""Opening a data directory: lock, journal, databases, replay; quarantine and rebuild of a damaged database.

data_dir/
LOCK                      held by the running process
reserve                   blocks kept for when the disk is full
journal/0000000000000001.seg ...  spare
db/CURRENT                name of the generation in use
db/g1/catalog.db  main-2.db ...   (a store's own `data_dir` holds its file instead)
db/g2/                    a generation that a raft_snapshot is bringing
db/INSTALL                what is left to do to put it in the other's place
db/quarantine-1/          a damaged generation, kept for inspection
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import msgspec

from shoal.errors import ConfigError, DatabaseCorrupt, DataDirLocked, DiskFull, ShoalError, StorageError
from shoal.storage.engine import CATALOG, Engine, Settings, is_disk_full, open_engine
from shoal.storage.files import Files
from shoal.storage.generation import Places, current_generation, write_whole
from shoal.storage.install import HOLLOW, complete, pending_install
from shoal.storage.journal import Journal, open_journal
from shoal.storage.segment import Identity
from shoal.storage.store_db import is_corrupt

SUSPECT = "SUSPECT"
DIVERGED = "DIVERGED"
"""In a directory of databases: they are not what the leader's are, and are not to be served."""

_log = logging.getLogger("shoal.node")
_locked_here: set[Path] = set()


class Lock:
    """The exclusive right to a data directory, held until closed or the process ends.

    Raises ConfigError for a directory that cannot be used, DataDirLocked for one that is in use.
    """

    def __init__(self, data_dir: Path) -> None:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(data_dir / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                "data_dir",
                f"{data_dir} cannot be used: {error.strerror}; choose another --data-dir, or mend its permissions",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            advice = "is in use by another process; stop it, or choose another --data-dir"
            if data_dir.resolve() in _locked_here:
                advice = "is open in this process already; close that store first"
            raise DataDirLocked(f"{data_dir} {advice}") from error
        self._path = data_dir.resolve()
        _locked_here.add(self._path)

    def close(self) -> None:
        """Give the directory up."""
        _locked_here.discard(self._path)
        os.close(self._fd)


class Opened(msgspec.Struct):
    """A data directory, recovered; `notes` are sentences for the operator.

    `witness`: the journal is all there is to be. `hollow`: the databases differed from the leader's, and come anew.
    """

    journal: Journal
    engine: Engine
    notes: list[str]
    witness: bool = False
    hollow: bool = False

    @property
    def applied(self) -> int | None:
        """Up to where the databases are; None where there are none."""
        return None if self.witness or self.hollow else self.engine.applied_index


def open_storage(
    files: Files,
    data_dir: Path,
    settings: Settings,
    new_identity: Callable[[], Identity],
    *,
    segment_bytes: int,
    floor_bytes: int,
    store_directory: Callable[[str], Path | None] = lambda _: None,
    other_directories: Sequence[Path] = (),
) -> Opened:
    """Recover everything in `data_dir`. Raises StorageError and its children, each naming what to do."""
    notes: list[str] = []
    places = Places(data_dir, store_directory, other_directories)
    install = pending_install(files, places)
    generation = current_generation(files, places) if install is None else install.generation
    directory = places.directory(generation)
    has_data = (directory / CATALOG).exists()
    journal = open_journal(
        files,
        data_dir / "journal",
        new_identity,
        segment_bytes=segment_bytes,
        floor_bytes=floor_bytes,
        may_create=not has_data,
    )
    notes += journal.notes
    if (directory / DIVERGED).exists():
        _set_aside(files, places, generation)
        notes.append(
            f"{directory} was not what the leader had; it was set aside, and comes anew from the leader"
        )
    witness = _is_witness(journal)
    if witness:  # what is there was applied before it heard what it was to be
        _remove_databases(files, [directory, *places.others(generation)])
    try:
        if install is not None:
            complete(files, places, journal, install)
            notes.append(f"a raft_snapshot up to entry {install.index} was being installed; that is done now")
        hollow = (places.root / HOLLOW).exists()  # not before: a copy that is complete now makes it whole
        engine = open_databases(files, journal, places, generation, settings, bare=witness or hollow)
    except DatabaseCorrupt as error:
        hollow = journal.first_index != 1
        if not hollow:
            notes.append(
                f"the database was damaged ({error.detail}); it was set aside and rebuilt from the journal"
            )
            _quarantine_all(files, places, generation)
        elif _others_have_all(journal):
            notes.append(
                f"the database was damaged ({error.detail}); it was set aside, and comes anew from the leader"
            )
            _set_aside(files, places, generation)
        else:
            journal.close()
            raise DatabaseCorrupt(
                f"{error.detail}. The journal no longer holds everything, so it cannot be rebuilt: "
                "restore the data directory from a backup, or remove this board and add it again"
            ) from error
        engine = open_databases(files, journal, places, generation, settings, bare=hollow)
    except BaseException:
        journal.close()
        raise
    notes += engine.notes
    return Opened(journal, engine, notes, witness=witness, hollow=hollow)


def _others_have_all(journal: Journal) -> bool:
    """Whether other members vote and have databases: what is committed is there."""
    own = journal.identity.node_id
    return any(m.voter and not m.witness and m.node_id != own for m in journal.configuration.members)


def _is_witness(journal: Journal) -> bool:
    own = (journal.identity.node_id, journal.identity.incarnation)
    return any(m.witness and (m.node_id, m.incarnation) == own for m in journal.configuration.members)


def _remove_databases(files: Files, directories: Sequence[Path]) -> None:
    for directory in directories:
        for path in [directory / name for name in files.names(directory)] if directory.exists() else []:
            if path.is_file():
                files.unlink(path)


def open_databases(
    files: Files, journal: Journal, places: Places, generation: str, settings: Settings, *, bare: bool
) -> Engine:
    """Open a generation and apply what the journal has beyond it. Raises StorageError.

    `bare`: nothing is applied, whatever is in the journal.
    """
    directory = places.directory(generation)
    suspect = (directory / SUSPECT).exists()
    engine = open_engine(
        directory, settings, journal.identity, lambda name: places.of_store(generation, name), files
    )
    try:
        if not bare:
            _catch_up(journal, engine, directory, suspect=suspect)
    except BaseException as error:
        engine.close()
        if is_corrupt(error) or isinstance(error, apsw.ConstraintError):  # it holds what it says it does not
            raise DatabaseCorrupt(f"{directory}: {error}") from error
        raise
    return engine


def _catch_up(journal: Journal, engine: Engine, directory: Path, *, suspect: bool) -> None:
    """Check the databases, and apply what the journal has beyond them."""
    engine.quick_check(everything=suspect)
    (directory / SUSPECT).unlink(missing_ok=True)
    if engine.newest_applied > journal.last_index:
        raise StorageError(
            f"{directory}: the database has entry {engine.newest_applied}, the journal ends at "
            f"{journal.last_index}; restore the data directory as a whole"
        )
    if journal.first_index > engine.oldest_applied + 1:
        raise StorageError(
            f"{directory}: the journal begins at entry {journal.first_index}, the database ends at "
            f"{engine.oldest_applied}; restore the data directory as a whole"
        )
    through = _committed(journal, engine)
    records = journal.read(engine.oldest_applied)
    if engine.replay(record for record in records if record.index <= through):
        engine.commit()
    engine.remove_strays()


def _committed(journal: Journal, engine: Engine) -> int:
    """The last entry that is surely committed: what a database has; of a board alone, what its journal has.

    In a cluster the rest waits for the leader's word.
    """
    voters = [member for member in journal.configuration.members if member.voter]
    if [(m.node_id, m.incarnation) for m in voters] == [
        (journal.identity.node_id, journal.identity.incarnation)
    ]:
        return journal.last_index
    return engine.newest_applied


def _set_aside(files: Files, places: Places, generation: str) -> None:
    """Put databases that diverged aside. Until a copy is installed the board has none: word of that goes first."""
    write_whole(files, places.root / HOLLOW, b"")
    _quarantine_all(files, places, generation)


def _quarantine_all(files: Files, places: Places, generation: str) -> None:
    for directory in (*places.others(generation), places.directory(generation)):
        _quarantine(files, directory)


def _quarantine(files: Files, directory: Path) -> None:
    """Set a directory of databases aside beside itself, and make an empty one in its place."""
    root = directory.parent
    taken = files.names(root)
    number = next(n for n in range(1, len(taken) + 2) if f"quarantine-{n}" not in taken)
    if directory.exists():
        files.replace(directory, root / f"quarantine-{number}")
    files.mkdir(directory)
    files.sync_dir(root)


def mark_suspect(directory: Path) -> None:
    """Leave word for the next start that SQLite found the files damaged."""
    (directory / SUSPECT).touch()


def mark_diverged(files: Files, directory: Path) -> None:
    """Leave word for the next start, durably, that these databases are not what the leader's are."""
    write_whole(files, directory / DIVERGED, b"")


def explained(error: BaseException, directory: Path) -> BaseException:
    """What ended the node, in words that say what to do. Of a defect the log gets the place."""
    if isinstance(error, ShoalError | OSError):
        return error
    if is_disk_full(error):
        return DiskFull("the disk is full, and no reserve is left to give: free some space, then start again")
    if is_corrupt(error):
        return DatabaseCorrupt(f"{directory}: {error}. Restart the node: it rebuilds the file if it can")
    if isinstance(error, apsw.Error):
        return StorageError(f"{directory}: {error}")
    _log.critical("a defect in shoal ends the node; please report it with this", exc_info=error)
    return StorageError(f"a defect in shoal ended the node, please report it with its log: {error!r}")
