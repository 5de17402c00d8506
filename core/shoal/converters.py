"""Converters: from a value of TOML's types to a checked one, or ValueError saying what to write."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.address import split_address

Converter = Callable[[Any], Any]


def whole(low: int, high: int) -> Converter:
    """A whole number within bounds."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return value

    return convert


def to_text(value: Any) -> str:
    """A text on one line, without the spaces around it."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 4096:
        raise ValueError("write a text that is not empty and has no control characters")
    return value.strip()


def matching(pattern: str, advice: str) -> Converter:
    """A text that matches as a whole; `advice` says what to write."""

    def convert(value: Any) -> str:
        text = to_text(value)
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"write {advice}")
        return text

    return convert


def to_path(value: Any) -> Path:
    """A path as the system takes it."""
    text = to_text(str(value) if isinstance(value, Path) else value)
    if text.startswith("~"):
        raise ValueError("write the path without '~', which only a shell expands")
    return Path(text)


def to_address(value: Any) -> str:
    """HOST:PORT."""
    text = to_text(value)
    split_address(text)
    return text


def choice(*choices: str) -> Converter:
    """One of these words."""

    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return str(value)

    return convert


def several(item: Converter) -> Converter:
    """A list, or one item alone; `none` is the empty list."""

    def convert(value: Any) -> tuple[Any, ...]:
        values = list(value) if isinstance(value, list | tuple) else [value]
        try:
            return () if values == ["none"] else tuple(dict.fromkeys(item(each) for each in values))
        except ValueError as error:
            raise ValueError(f"{error}, or none alone") from error

    return convert
