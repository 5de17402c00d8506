"""`shoal db`: what is in a board's SQLite file, read-only, on this machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shoal.errors import DatabaseCorrupt, NotFound
from shoal_host.data_dir import database_file, in_use
from shoal_host.exits import one_line
from shoal_host.options import data_dir_option, json_option
from shoal_host.output import note, print_json, print_table

if TYPE_CHECKING:
    from sqlite_utils import Database

_STEPS: Final = 10_000
"""Steps of SQLite's machine between two looks at whether Ctrl-C came: some tens of microseconds."""

_EVENTS_VIEW = """
CREATE TEMP VIEW events AS
SELECT position, stream.name AS stream, event.version, type.name AS type, epoch_us,
       event.version < stream.visible_from OR stream.tombstoned AS deleted,
       CASE WHEN content_type IS NULL THEN CAST(data AS TEXT) ELSE data END AS data,
       CAST(metadata AS TEXT) AS metadata, CAST(tags AS TEXT) AS tags
FROM event JOIN stream ON stream.id = event.stream JOIN type ON type.id = event.type
"""

_store_option = click.option(
    "--store",
    default="main",
    envvar="SHOAL_STORE",
    show_default=True,
    metavar="NAME",
    help="Name of the store.",
)


@click.group()
def db() -> None:
    """Look into the SQLite file of a store on this machine, without changing it.

    For looking only: events not yet committed to it stand in the journal. While shoald runs, `shoal read` and
    `shoal query` show everything. The view `events` joins what the tables keep apart.
    """


@db.command(
    epilog="""\b
Example:
  shoal db tables --data-dir ./shoal-data
"""
)
@_store_option
@data_dir_option
@json_option
def tables(store: str, data_dir: Path, *, as_json: bool) -> None:
    """List the tables with their number of rows."""
    with _opened(data_dir, store) as database:
        counts = {name: database[name].count for name in sorted(database.table_names())}
    if as_json:
        print_json({"tables": [{"table": name, "rows": count} for name, count in counts.items()]})
    else:
        print_table(("table", "rows"), counts.items())


@db.command(
    epilog="""\b
Example:
  shoal db schema
"""
)
@_store_option
@data_dir_option
@json_option
def schema(store: str, data_dir: Path, *, as_json: bool) -> None:
    """Show the statements that made the tables and indexes."""
    with _opened(data_dir, store) as database:
        text = database.schema
    if as_json:
        print_json({"schema": text})
    else:
        click.echo(text)


@db.command(
    epilog="""\b
Examples:
  shoal db rows stream
  shoal db rows events --limit 5 --json
"""
)
@click.argument("table")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most rows to show.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Rows to leave out first.")
@_store_option
@data_dir_option
@json_option
def rows(table: str, *, limit: int, offset: int, store: str, data_dir: Path, as_json: bool) -> None:
    """Show rows of TABLE, or of the view `events`."""
    with _opened(data_dir, store) as database:
        if table not in {*database.table_names(), "events"}:
            raise NotFound(f"there is no table {table!r}; `shoal db tables` lists them")
        sql = f'SELECT * FROM "{table}" LIMIT {limit} OFFSET {offset}'  # noqa: S608 - a table that is there
        _show(database, sql, limit, as_json=as_json)


@db.command(
    epilog="""\b
Example:
  shoal db query "SELECT type, count(*) AS events FROM events GROUP BY type"
"""
)
@click.argument("sql")
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="Most rows to show.")
@_store_option
@data_dir_option
@json_option
def query(sql: str, *, limit: int, store: str, data_dir: Path, as_json: bool) -> None:
    """Run the query SQL. Statements that would change something are refused."""
    with _opened(data_dir, store) as database:
        _show(database, sql, limit, as_json=as_json)


def _show(database: Database, sql: str, limit: int, *, as_json: bool) -> None:
    cursor = database.execute(sql)
    if cursor.description is None:
        raise click.UsageError("that is no query: only what gives rows can be asked, such as SELECT")
    names = [column[0] for column in cursor.description]
    found: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in islice(cursor, limit)]
    if as_json:
        print_json({"rows": [_jsonable(row) for row in found]})
    elif found:
        print_table(tuple(found[0]), (tuple(row.values()) for row in found))
    else:
        note("no rows")


def _jsonable(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in row.items()}


@contextmanager
def _opened(data_dir: Path, store: str) -> Iterator[Database]:
    from sqlite_utils import Database

    path = database_file(data_dir, store)
    if in_use(data_dir):
        note("shoald is running on this directory: what it has not committed yet is not shown")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(_EVENTS_VIEW)
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_allow)
        connection.set_progress_handler(_go_on, _STEPS)
        yield Database(connection)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise _explained(error, path) from error
    finally:
        connection.close()


def _allow(action: int, *_: str | None) -> int:
    """All but other files, which ATTACH would make where they are missing; VACUUM INTO attaches too."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _go_on() -> None:
    """Python hears Ctrl-C only in Python code, and a query may run for ever without any."""


def _explained(error: sqlite3.DatabaseError, path: Path) -> Exception:
    text = one_line(str(error))
    if "malformed" in text or "not a database" in text:
        return DatabaseCorrupt(f"{path}: {text}; a start of shoald repairs it from the journal where it can")
    if "readonly" in text or "read-only" in text:
        return click.UsageError(
            "`shoal db` only looks: use `shoal append` or `shoal delete` to change a store"
        )
    if "not authorized" in text or "authorization denied" in text:
        return click.UsageError("`shoal db` looks into one file only, and makes no other")
    return click.UsageError(text)
