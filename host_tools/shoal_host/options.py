"""Options that many commands share, and how a command gets at the store they name."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from shoal.store.api import Store

DEFAULT_URL: Final = "http://127.0.0.1:4589"
DEFAULT_DATA_DIR: Final = "./shoal-data"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """The store that a command talks to."""

    urls: tuple[str, ...]
    token: str | None
    store: str


def _connect(target: Target) -> AbstractAsyncContextManager[Store]:
    import shoal

    return shoal.connect(*target.urls, store=target.store, token=target.token)


@dataclass(frozen=True, slots=True)
class Environment:
    """What commands reach outside for; tests hand in another one as Click's `obj`."""

    connect: Callable[[Target], AbstractAsyncContextManager[Store]] = _connect


_TARGET_OPTIONS: Final = (
    click.option(
        "--store",
        default="main",
        envvar="SHOAL_STORE",
        show_envvar=True,
        show_default=True,
        metavar="NAME",
        help="Name of the store.",
    ),
    click.option(
        "--token",
        envvar="SHOAL_TOKEN",
        show_envvar=True,
        metavar="TEXT",
        help="Token; better in the environment, where `ps` does not show it.",
    ),
    click.option(
        "--url",
        multiple=True,
        default=[DEFAULT_URL],
        envvar="SHOAL_URL",
        show_envvar=True,
        show_default=True,
        metavar="URL",
        help="Address of a board; several are tried in turn.",
    ),
)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url, --token, --store and --json; the command gets `target` and `as_json`."""

    @functools.wraps(command)
    def with_target(url: tuple[str, ...], token: str | None, store: str, **rest: Any) -> Any:
        return command(target=Target(url, token, store), **rest)

    options = with_target
    for option in _TARGET_OPTIONS:
        options = option(options)
    return json_option(options)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json; the command gets `as_json`, and errors follow it."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> bool:  # noqa: ARG001, FBT001
        ctx.meta["shoal.json"] = value
        return value

    option = click.option("--json", "as_json", is_flag=True, help="JSON for programs.", callback=remember)
    return option(command)


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data-dir for commands that look at the files of a board on this machine."""
    option = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DATA_DIR,
        envvar="SHOAL_DATA_DIR",
        show_envvar=True,
        show_default=True,
        help="The board's data directory, on this machine.",
    )
    return option(command)


def wants_json(ctx: click.Context) -> bool:
    """Whether --json was given to the command that runs."""
    return bool(ctx.meta.get("shoal.json"))


def environment() -> Environment:
    """The running command's environment."""
    return click.get_current_context().find_object(Environment) or Environment()


def with_store(target: Target, use: Callable[[Store], Awaitable[T]]) -> T:
    """Connect, `use` the store, close. Raises what `use` raises; Ctrl-C cancels it."""
    connect = environment().connect

    async def run() -> T:
        async with connect(target) as store:
            return await use(store)

    return asyncio.run(run())
