"""The SQLite schema, as numbered migrations. Additive only: the previous release must still open the file.

`user_version` is the number of the last migration applied; each runs in a transaction of its own.
"""

from __future__ import annotations

import apsw

from shoal.errors import StorageError

STORE_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE stream (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        visible_from INTEGER NOT NULL,
        tombstoned INTEGER NOT NULL,
        chain BLOB NOT NULL,
        digest BLOB NOT NULL
    );
    CREATE TABLE type (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, events INTEGER NOT NULL);
    CREATE TABLE tag (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, events INTEGER NOT NULL);
    CREATE TABLE event (
        position INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        version INTEGER NOT NULL,
        type INTEGER NOT NULL,
        event_id NOT NULL,
        own_id INTEGER NOT NULL,
        epoch_us INTEGER NOT NULL,
        reading_us INTEGER,
        data BLOB NOT NULL,
        content_type TEXT,
        metadata BLOB,
        metadata_type TEXT,
        tags BLOB,
        chain BLOB NOT NULL
    );
    CREATE UNIQUE INDEX event_by_stream ON event (stream, version);
    CREATE UNIQUE INDEX event_by_id ON event (event_id, stream);
    CREATE INDEX event_by_type ON event (type, position);
    CREATE TABLE tagged (tag INTEGER, position INTEGER, PRIMARY KEY (tag, position)) WITHOUT ROWID;
    CREATE TABLE snapshot (
        stream TEXT NOT NULL,
        version INTEGER NOT NULL,
        epoch_us INTEGER NOT NULL,
        data BLOB NOT NULL,
        content_type TEXT,
        metadata BLOB,
        metadata_type TEXT,
        digest BLOB NOT NULL,
        PRIMARY KEY (stream, version)
    ) WITHOUT ROWID;
    CREATE TABLE reclaim (stream INTEGER PRIMARY KEY)
    """,
    """
    CREATE TABLE subscription (
        name TEXT PRIMARY KEY,
        life INTEGER NOT NULL,
        type TEXT NOT NULL,
        selector TEXT NOT NULL,
        start_from NOT NULL,
        options TEXT NOT NULL,
        checkpoint INTEGER NOT NULL,
        settled BLOB NOT NULL,
        attempts BLOB NOT NULL,
        created_us INTEGER NOT NULL,
        advanced_us INTEGER NOT NULL,
        digest BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE parked (
        subscription TEXT NOT NULL,
        position INTEGER NOT NULL,
        stream TEXT NOT NULL,
        reason TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        replaying INTEGER NOT NULL,
        digest BLOB NOT NULL,
        PRIMARY KEY (subscription, position)
    ) WITHOUT ROWID;
    CREATE INDEX parked_replaying ON parked (subscription, position) WHERE replaying;
    CREATE INDEX parked_by_stream ON parked (stream)
    """,
)
"""`digest` columns cover the other columns of their row (shoal.storage.chain), `stream.chain` is the chain
value of its last event, `reclaim` lists tombstoned streams with rows left. Of a subscription, `selector` and
`options` are JSON, `settled` and `attempts` msgpack."""

SUBSCRIPTIONS_SINCE = 2
"""The migration that made the tables of subscriptions."""

CATALOG_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE store (name TEXT PRIMARY KEY, created_index INTEGER NOT NULL) WITHOUT ROWID
    """,
)


def migrate(connection: apsw.Connection, migrations: tuple[str, ...], name: str) -> None:
    """Bring the file up to the last migration. Raises StorageError for a file of a later release."""
    (done,) = connection.execute("PRAGMA user_version").fetchone() or (0,)
    if done > len(migrations):
        raise StorageError(
            f"{name}: written by a later release (schema {done}, this one knows {len(migrations)}). "
            "Install that release again"
        )
    for number, script in enumerate(migrations[done:], start=done + 1):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(script)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
