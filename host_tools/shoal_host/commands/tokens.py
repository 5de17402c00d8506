"""`shoal tokens`: who may use a board, kept in its data directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import click

from shoal.tokens import Role, Token, TokenFile
from shoal_host.options import data_dir_option, json_option
from shoal_host.output import local_time, note, print_json, print_table

_ROLES = click.Choice(get_args(Role))


@click.group()
def tokens() -> None:
    """Make, list and revoke the tokens of a board on this machine.

    They are kept as hashes in its data directory; a running shoald sees a change at once.
    """


@tokens.command(
    epilog="""\b
Examples:
  shoal tokens create --role append --name kitchen --stream 'board-kitchen'
  SHOAL_TOKEN=$(shoal tokens create --role admin)
"""
)
@click.option("--role", type=_ROLES, required=True, help="Each includes the one before it.")
@click.option("--name", default="", metavar="TEXT", help="Whose it is, for the list.")
@click.option(
    "--stream",
    "streams",
    multiple=True,
    metavar="PATTERN",
    help="Only for streams that match; may be repeated.",
)
@data_dir_option
@json_option
def create(role: Role, *, name: str, streams: tuple[str, ...], data_dir: Path, as_json: bool) -> None:
    """Make a token and print it. It is shown this once and kept nowhere."""
    file = TokenFile(data_dir)
    text = file.add(role, name=name, streams=streams, created_us=time.time_ns() // 1000)
    token = file.tokens()[-1]
    if as_json:
        print_json({"token": text} | _fields(token))
        return
    click.echo(text)
    note(f"token {token.id}, role {role}, is in {file.path}; the text above is shown only this once")


@tokens.command(
    "list",
    epilog="""\b
Example:
  shoal tokens list --data-dir ./shoal-data
""",
)
@data_dir_option
@json_option
def list_(data_dir: Path, *, as_json: bool) -> None:
    """List the tokens, without their texts."""
    found = TokenFile(data_dir).tokens()
    if as_json:
        print_json({"tokens": [_fields(token) for token in found]})
        return
    print_table(
        ("id", "role", "name", "streams", "made"),
        [
            (
                token.id,
                token.role,
                token.name,
                " ".join(token.streams) or "all",
                local_time(token.created_us)[:19],
            )
            for token in found
        ],
    )


@tokens.command(
    epilog="""\b
Example:
  shoal tokens revoke 1f0c9a7be210
"""
)
@click.argument("token_id", metavar="ID")
@data_dir_option
@json_option
def revoke(token_id: str, *, data_dir: Path, as_json: bool) -> None:
    """Take the token ID away; requests with it are refused from now on."""
    token = TokenFile(data_dir).remove(token_id)
    if as_json:
        print_json(_fields(token))
    else:
        click.echo(f"revoked {token.id}")


def _fields(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "role": token.role,
        "name": token.name,
        "streams": list(token.streams),
        "created_us": token.created_us,
    }
