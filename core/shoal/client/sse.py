"""Server-sent events: an incremental parser (WHATWG HTML, section 9.2.6). Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Message(NamedTuple):
    """One dispatched message; `last_id` is the id in force, "" before any."""

    event: str
    data: bytes
    last_id: str


class Parser:
    """Feed it bytes as they come; it gives the messages that are complete."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._event = ""
        self._data: list[bytes] = []
        self._last_id = ""

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that `chunk` completes."""
        if b"\n" not in chunk and b"\r" not in chunk:
            self._rest.append(chunk)
            return []
        text = b"".join([*self._rest, chunk])
        # A trailing CR may be half of CRLF: it waits for the next chunk.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        self._rest = [rest + held] if rest or held else []
        return [message for line in lines if (message := self._line(line)) is not None]

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._last_id = value.decode(errors="replace")
        return None

    def _dispatch(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return Message(event or "message", b"\n".join(data), self._last_id) if data else None
