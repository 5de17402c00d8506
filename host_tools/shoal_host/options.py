"""Options that many commands share, and how a command gets at the store they name."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from shoal.errors import ShoalError
from shoal.store.api import Store

DEFAULT_URL: Final = "http://127.0.0.1:4589"
DEFAULT_DATA_DIR: Final = "./shoal-data"

_JSON: Final = "shoal.json"

T = TypeVar("T")


def _ignore(_change: ShoalError | None) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Target:
    """The store that a command talks to; `on_tail` hears of a board that a tail lost, as `shoal.connect` says."""

    urls: tuple[str, ...]
    token: str | None
    store: str
    on_tail: Callable[[ShoalError | None], None] = field(default=_ignore, compare=False)


def _connect(target: Target) -> AbstractAsyncContextManager[Store]:
    import shoal

    return shoal.connect(*target.urls, store=target.store, token=target.token, on_tail=target.on_tail)


@dataclass(frozen=True, slots=True)
class Environment:
    """What commands reach outside for; tests hand in another one as Click's `obj`."""

    connect: Callable[[Target], AbstractAsyncContextManager[Store]] = _connect


class Name(click.ParamType[str]):
    """A text that is not empty; how long it may be, the board knows."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value) or self.fail("it must not be empty", param, ctx)


NAME: Final = Name()


def _addresses(ctx: click.Context, param: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    """What is not yet an address is told how to become one; the rest is for `shoal.connect` to judge."""
    for url in urls:
        if "," in url:
            raise click.BadParameter(f"{url!r}: for several boards repeat --url", ctx, param)
        if "://" not in url:
            raise click.BadParameter(f"{url!r} has no scheme: write http://{url}", ctx, param)
    return urls


_TARGET_OPTIONS: Final = (
    click.option(
        "--store",
        type=NAME,
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
        callback=_addresses,
        help="Address of a board. Repeat it for several, which take turns; in SHOAL_URL put spaces between.",
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
        ctx.meta[_JSON] = value
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
    return bool(ctx.meta.get(_JSON))


def expect_json(ctx: click.Context, arguments: list[str]) -> None:
    """For mistakes that are found before the command has read its --json: whether it is among `arguments`."""
    ctx.meta[_JSON] = "--json" in takewhile(lambda argument: argument != "--", arguments)


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
