"""`shoal`: the command line of a developer's machine. Commands are imported when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

import click

from shoal.errors import ShoalError
from shoal_host.exits import CODES_HELP, ERROR, INTERRUPTED, one_line, refuse
from shoal_host.options import wants_json

COMMANDS: Final = {
    "aggregate": "aggregate:aggregate",
    "append": "append:append",
    "bench": "bench:bench",
    "db": "db:db",
    "delete": "delete:delete",
    "query": "query:query",
    "read": "read:read",
    "snapshot": "snapshot:snapshot",
    "streams": "streams:streams",
    "tail": "tail:tail",
    "tokens": "tokens:tokens",
    "up": "up:up",
    "verify": "verify:verify",
}
"""Where each command is, below `shoal_host.commands`."""


class Shoal(click.Group):
    """The group of all commands, and the one place where they end."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"shoal_host.commands.{module}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except ShoalError as error:
            ctx.exit(refuse(error, as_json=wants_json(ctx)))
        except BrokenPipeError:
            _forget_stdout()  # the reader has seen enough, as `head` does
            ctx.exit(0)
        except OSError as error:
            click.echo(f"shoal: {one_line(str(error))}", err=True)
            ctx.exit(ERROR)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(INTERRUPTED)
        return result


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


if __name__ == "__main__":
    main()
