"""The group of all commands, imported when they are called, and the one place where they end."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from shoal.errors import ShoalError
from shoal_host.exits import CODES_HELP, INTERRUPTED, refuse, refuse_system, refuse_usage
from shoal_host.options import expect_json, wants_json

COMMANDS: Final = {
    "aggregate": "aggregate:aggregate",
    "append": "append:append",
    "bench": "bench:bench",
    "ca": "ca:ca",
    "cluster": "cluster:cluster",
    "db": "db:db",
    "delete": "delete:delete",
    "discover": "discover:discover",
    "doctor": "doctor:doctor",
    "lab": "lab:lab",
    "query": "query:query",
    "read": "read:read",
    "snapshot": "snapshot:snapshot",
    "streams": "streams:streams",
    "subscribe": "subscribe:subscribe",
    "subscription": "subscription:subscription",
    "tail": "tail:tail",
    "tokens": "tokens:tokens",
    "up": "up:up",
    "verify": "verify:verify",
}
"""Where each command is, below `shoal_host.commands`."""


class Shoal(click.Group):
    """`shoal`: whatever goes wrong below it, at parsing already, ends as `_ending` says."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"shoal_host.commands.{module}"), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        expect_json(ctx, args)
        with _ending(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _ending(ctx):
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextmanager
def _ending(ctx: click.Context) -> Iterator[None]:
    """Errors leave as one line for people or one document for programs, and with the exit code of their kind."""
    try:
        yield
    except ShoalError as error:
        ctx.exit(refuse(error, as_json=wants_json(ctx)))
    except click.ClickException as error:
        ctx.exit(refuse_usage(error, as_json=wants_json(ctx)))
    except BrokenPipeError:
        _forget_stdout()  # the reader has seen enough, as `head` does
        ctx.exit(0)
    except OSError as error:
        ctx.exit(refuse_system(error, as_json=wants_json(ctx)))
    except (KeyboardInterrupt, click.Abort):
        ctx.exit(INTERRUPTED)


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=Shoal,
    epilog=CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="shoal")
def main() -> None:
    """Work with shoal, an event store for small boards.

    Where the board is: --url, or the environment variable SHOAL_URL (http://127.0.0.1:4589 without
    either). A token: SHOAL_TOKEN. Each command takes --help and shows an example there.
    """
