"""What commands print: lines and tables for people, JSON for programs.

Whatever comes from a store is data: before it reaches a terminal, characters that a terminal obeys are
shown as escapes, and Rich never reads it as markup.
"""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from shoal.errors import ShoalError
from shoal.types import CBOR, JSON, Appended, Event, Snapshot, timestamp
from shoal_host.exits import one_line, visible


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    click.echo(msgspec.json.encode(value))


def event_fields(event: Event) -> dict[str, Any]:
    """An event as HTTP gives it; binary data comes as `data_base64`."""
    return {
        "stream_id": event.stream_id,
        "version": event.version,
        "position": event.position,
        "event_id": event.event_id,
        "event_type": event.event_type,
        **_payload(event.data_raw, event.content_type),
        "metadata": event.metadata,
        "tags": event.tags,
        "epoch_us": event.epoch_us,
        "timestamp": event.timestamp,
        "data_content_type": event.data_content_type,
        "metadata_content_type": event.metadata_content_type,
    }


def snapshot_fields(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as HTTP gives it."""
    return {
        "stream_id": snapshot.stream_id,
        "version": snapshot.version,
        **_payload(snapshot.data_raw, snapshot.content_type),
        "metadata": snapshot.metadata,
        "epoch_us": snapshot.epoch_us,
        "timestamp": timestamp(snapshot.epoch_us),
    }


def appended_fields(result: Appended) -> dict[str, Any]:
    """An append's result as HTTP gives it."""
    return {
        "stream_id": result.stream_id,
        "first_version": result.first_version,
        "version": result.version,
        "position": result.position,
        "duplicate": result.duplicate,
    }


def _payload(raw: bytes, content_type: str | None) -> dict[str, Any]:
    if content_type in {None, JSON}:
        return {"data": msgspec.Raw(raw)}
    if content_type == CBOR:
        import cbor2

        return {"data": cbor2.loads(raw)}
    return {"data_base64": base64.b64encode(raw).decode()}


def brief_payload(raw: bytes, content_type: str | None) -> str:
    """A payload on one line, fit for a terminal."""
    if content_type not in {None, JSON, CBOR}:
        return f"<{len(raw)} bytes, {one_line(content_type or '')}>"
    text = raw if content_type != CBOR else msgspec.json.encode(_payload(raw, content_type)["data"])
    return one_line(text.decode("utf-8", "replace"))


def local_time(epoch_us: int) -> str:
    """Date and time of day here, to the millisecond."""
    return datetime.fromtimestamp(epoch_us / 1_000_000).astimezone().isoformat(" ", "milliseconds")[:23]


def print_event(event: Event) -> None:
    """One line: when, where, what."""
    place = f"{visible(event.stream_id)}@{event.version}"
    payload = brief_payload(event.data_raw, event.content_type)
    click.echo(f"{local_time(event.epoch_us)}  {place}  {visible(event.event_type)}  {payload}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on a terminal; tab-separated lines with a heading for anything else."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(one_line(_shown(cell)) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(_shown(cell))) for cell in row))
    Console().print(table)


def _shown(cell: object) -> str:
    if isinstance(cell, bytes):
        return f"<{len(cell)} bytes: {cell[:16].hex()}{'...' if len(cell) > 16 else ''}>"
    return "" if cell is None else str(cell)


def note_board(lost: ShoalError | None) -> None:
    """A board that is followed was lost, or is there again (None)."""
    if lost is None:
        note("shoal: the board is there again, nothing was missed")
    else:
        note(f"shoal: the board is lost, waiting for it: {one_line(str(lost))}")


def note(text: str) -> None:
    """A remark for people, beside what a program would read."""
    click.echo(text, err=True)


def own_name() -> str:
    """How a person calls this program from here."""
    if shutil.which("shoal"):
        return "shoal"
    called = Path(sys.argv[0]).absolute()
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)
