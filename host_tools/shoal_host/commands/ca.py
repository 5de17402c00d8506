"""`shoal ca`: the keys of a cluster."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, get_args

import click

from shoal.address import join_address
from shoal.cluster.authority import Step
from shoal.cluster.join_tokens import LIFETIME_S, LIFETIME_S_MAX, TEXT_CHARS_MAX, JoinToken, JoinTokens
from shoal.errors import ConfigError, Unreachable
from shoal_host.exits import UNAVAILABLE, Failure
from shoal_host.options import json_option
from shoal_host.output import local_time, note, print_json, print_table

if TYPE_CHECKING:
    from shoal.cluster.authority import Authorities

_DEFAULT_CA_DIR: Final = "./shoal-ca"
_DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)
_MINUTES: Final = click.IntRange(5, LIFETIME_S_MAX // 60)

_WHAT_NOW: Final[dict[Step, str]] = {
    "begin": "bring {ca_dir}/ca.pem to every node's directory; once all have it: shoal ca rotate switch",
    "switch": "give every node a new certificate: shoal ca issue NODE_ID --to DIR (with --enrols for one that "
    "enrols others); once all have one: shoal ca rotate finish",
    "finish": "bring {ca_dir}/ca.pem to every node's directory; the old authority is trusted no more",
}


class _Unanswered(Failure):
    """As `errors.Unreachable`, with advice for a board that is to be enrolled."""

    code = "unreachable"
    title = "Nobody enrolled the board"


@click.group()
def ca() -> None:
    """Make and renew the keys of a cluster: its authority, its nodes' certificates, join tokens.

    The authority (`ca.pem`, `ca-key.pem`) says which boards belong together. Its directory stays with you: whoever has
    ca-key.pem can make a certificate for any node. A node's directory (shoald's --tls-dir) has ca.pem, cert.pem and
    key.pem. Either write that directory for each board before it starts (`issue`), or let the board make its own key
    and ask for a certificate with a join token (`token`, `serve`, `enrol`). Certificates do not expire, since boards
    have no clock: a board is shut out by `shoal cluster remove`.
    """


def ca_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --ca-dir; the command gets `ca_dir`."""
    option = click.option(
        "--ca-dir",
        type=_DIRECTORY,
        default=_DEFAULT_CA_DIR,
        show_default=True,
        help="The authority's directory; a node's own if that holds ca-key.pem.",
    )
    return option(command)


@ca.command(
    epilog="""\b
Example:
  shoal ca init --cluster-id reef
"""
)
@click.option("--cluster-id", required=True, metavar="ID", help="The cluster's name, for good.")
@ca_dir_option
@json_option
def init(*, cluster_id: str, ca_dir: Path, as_json: bool) -> None:
    """Make the authority of a new cluster."""
    from shoal.cluster.authority import create_authority

    with _mistakes("--cluster-id"):
        made = create_authority(ca_dir, cluster_id)
    if as_json:
        print_json(_authority_fields(ca_dir, made))
        return
    click.echo(f"made the authority of cluster {cluster_id} in {ca_dir}")
    note("keep ca-key.pem from others, and a copy of it; next: shoal ca issue, or shoal ca token")


@ca.command(
    epilog="""\b
Examples:
  shoal ca issue board-1 --to ./board-1/tls
  shoal ca issue board-1 --to ./board-1/tls --new-key
"""
)
@click.argument("node_id", metavar="NODE_ID")
@click.option(
    "--to", "directory", type=_DIRECTORY, required=True, help="The node's directory, made if needed."
)
@click.option("--new-key", is_flag=True, help="Also another key, where there is one already.")
@click.option("--enrols", is_flag=True, help="Also ca-key.pem: the node answers join tokens itself.")
@ca_dir_option
@json_option
def issue(node_id: str, *, directory: Path, new_key: bool, enrols: bool, ca_dir: Path, as_json: bool) -> None:
    """Write a node's key and certificate into a directory, as for an SD card.

    Again on the same directory it renews the certificate; a running shoald uses it within ten seconds. With --new-key
    the former key is shut out as soon as the leader has seen the new one. --enrols counts after a restart.
    """
    from shoal.cluster import identity
    from shoal.cluster.authority import copy_authority, load_authority
    from shoal.cluster.certificates import CertificateError, subject_of

    authorities = load_authority(ca_dir)
    _check_node_id(node_id)
    with _mistakes("--to"):
        certificate = directory / identity.CERTIFICATE_FILE
        if certificate.exists():
            there = subject_of(certificate.read_bytes())
            if (there.cluster_id, there.node_id) != (authorities.cluster_id, node_id):
                raise CertificateError(
                    f"{directory} is of node {there.node_id!r} of {there.cluster_id!r}: name another directory"
                )
        identity.issue(authorities.signing, node_id, directory, ca_pem=authorities.ca_pem, renew=new_key)
        if enrols:
            copy_authority(ca_dir, directory)
        made = identity.load_identity(directory)
    if as_json:
        print_json(_identity_fields(made, directory))
    else:
        click.echo(f"{directory} is node {node_id} of cluster {made.cluster_id}")
        note(f"its key is {made.key_hash.hex()[:12]}. On the board: shoald --mode cluster --tls-dir DIR")
        note("with --bootstrap-expect 3 where three empty boards begin, with 0 where it is to be added")


@ca.command(
    epilog="""\b
Examples:
  shoal ca token board-2
  shoal ca token --minutes 1440 --ca-dir /etc/shoal/tls
"""
)
@click.argument("node_id", metavar="[NODE_ID]", required=False, default="")
@click.option(
    "--minutes",
    type=_MINUTES,
    default=LIFETIME_S // 60,
    show_default=True,
    help="How long it lives, in running time of what answers for it.",
)
@ca_dir_option
@json_option
def token(node_id: str, *, minutes: int, ca_dir: Path, as_json: bool) -> None:
    """Make a join token, for one board, and print it. It is shown this once.

    Answered by whatever runs on this directory: `shoal ca serve`, or the shoald whose --tls-dir it is.
    """
    from shoal.cluster.authority import load_authority
    from shoal.cluster.certificates import fingerprint
    from shoal.cluster.join_tokens import TokenText, write_token

    authorities = load_authority(ca_dir)
    if node_id:
        _check_node_id(node_id)
    tokens = JoinTokens(ca_dir)
    secret, kept = tokens.add(node_id, lifetime_s=minutes * 60, created_us=time.time_ns() // 1000)
    text = write_token(TokenText(fingerprint(authorities.signing.certificate), secret))
    if as_json:
        print_json({"token": text} | _token_fields(kept))
        return
    click.echo(text)
    note(f"join token {kept.id} is good for {minutes} minutes; the text above is shown only this once")


@ca.command(
    "list",
    epilog="""\b
Example:
  shoal ca list
""",
)
@ca_dir_option
@json_option
def list_(*, ca_dir: Path, as_json: bool) -> None:
    """List the join tokens that still live, without their texts."""
    found = JoinTokens(ca_dir).tokens()
    if as_json:
        print_json({"tokens": [_token_fields(kept) for kept in found]})
        return
    print_table(
        ("id", "for", "minutes left", "made", "used by"),
        [
            (
                kept.id,
                kept.node_id or "any",
                kept.left_s // 60,
                local_time(kept.created_us)[:19],
                kept.used_node_id,
            )
            for kept in found
        ],
    )


@ca.command(
    epilog="""\b
Example:
  shoal ca revoke 1f0c9a7be210
"""
)
@click.argument("token_id", metavar="ID")
@ca_dir_option
@json_option
def revoke(token_id: str, *, ca_dir: Path, as_json: bool) -> None:
    """Take the join token ID away. A board that used it keeps its certificate."""
    kept = JoinTokens(ca_dir).revoke(token_id)
    if as_json:
        print_json(_token_fields(kept))
    else:
        click.echo(f"revoked {kept.id}")


@ca.command(
    epilog="""\b
Example:
  shoal ca show --ca-dir ./shoal-ca
"""
)
@ca_dir_option
@json_option
def show(*, ca_dir: Path, as_json: bool) -> None:
    """Show the cluster, its authorities and what a rotation has come to."""
    from shoal.cluster.authority import load_authority

    fields = _authority_fields(ca_dir, load_authority(ca_dir))
    if as_json:
        print_json(fields)
        return
    click.echo(f"cluster {fields['cluster_id']}, next step of a rotation: {fields['next_step']}")
    rows = [(each["fingerprint"], "yes" if each["signs"] else "no") for each in fields["authorities"]]
    print_table(("trusted authority (SHA-256)", "signs"), rows)


@ca.command(
    epilog="""\b
Example:
  shoal ca rotate begin
"""
)
@click.argument("step", type=click.Choice(get_args(Step)))
@ca_dir_option
@json_option
def rotate(step: Step, *, ca_dir: Path, as_json: bool) -> None:
    """Replace the authority by a new one in three steps, without downtime.

    begin: the new one is trusted too. switch: it signs, both are trusted. finish: the old one is trusted no more.
    After each the command says what to bring to the nodes before the next.
    """
    from shoal.cluster import authority

    now = authority.rotate(ca_dir, step)
    if as_json:
        print_json(_authority_fields(ca_dir, now))
    else:
        click.echo(f"{step} is done; {_WHAT_NOW[step].format(ca_dir=ca_dir)}")


@ca.command(
    epilog="""\b
Example:
  shoal ca serve --listen 0.0.0.0:4591
"""
)
@click.option("--listen", default="0.0.0.0:4591", show_default=True, metavar="HOST:PORT", help="Where.")
@ca_dir_option
@json_option
def serve(*, listen: str, ca_dir: Path, as_json: bool) -> None:
    """Answer boards that come with a join token, until Ctrl-C. No board needs ca-key.pem then.

    With --json the first line is {"listen": "HOST:PORT"}; who was enrolled, and who was not, is told on stderr.
    """
    from shoal_host.enrolment_desk import answer_boards

    def ready(place: tuple[str, int]) -> None:
        host, port = place
        where = join_address(host, port)
        if as_json:
            print_json({"listen": where})
        else:
            click.echo(
                f"answering boards on {where}; in another terminal: shoal ca token NODE_ID --ca-dir {ca_dir}"
            )
        sys.stdout.flush()

    asyncio.run(answer_boards(ca_dir, listen, ready=ready, tell=note))


@ca.command(
    epilog="""\b
Examples:
  shoal ca enrol board-2 --from 192.168.1.10:4591 --token-file token --to /etc/shoal/tls
  echo "$TOKEN" | shoal ca enrol board-2 --from 192.168.1.10:4591 --token-file - --to ./tls
"""
)
@click.argument("node_id", metavar="[NODE_ID]", required=False)
@click.option(
    "--from",
    "addresses",
    multiple=True,
    required=True,
    metavar="HOST:PORT",
    help="Who may answer; repeat it.",
)
@click.option(
    "--token-file", type=click.File(), required=True, help="File with the join token, - for standard input."
)
@click.option(
    "--to", "directory", type=_DIRECTORY, required=True, help="This board's directory, made if needed."
)
@click.option("--renew", is_flag=True, help="Replace key and certificate of a board that has them.")
@json_option
def enrol(
    node_id: str | None,
    *,
    addresses: tuple[str, ...],
    token_file: TextIO,
    directory: Path,
    renew: bool,
    as_json: bool,
) -> None:
    """On a board: make its key, and get its certificate for a join token.

    The key never leaves the board. shoald does the same at its first start with --join-token-file.
    """
    from shoal.cluster.enrolment import enrol as ask
    from shoal.cluster.identity import load_identity

    with _mistakes("NODE_ID"):
        text = token_file.read(TEXT_CHARS_MAX + 2)
        try:
            asyncio.run(ask(addresses, text, directory, node_id, renew=renew))
        except Unreachable as error:
            hint = "is `shoal ca serve`, or a shoald with ca-key.pem, running there?"
            raise _Unanswered(f"{error}; {hint}", UNAVAILABLE) from error
    made = load_identity(directory)
    if as_json:
        print_json(_identity_fields(made, directory))
    else:
        click.echo(f"{directory} is node {made.node_id} of cluster {made.cluster_id}")
        note(f"next: shoald --mode cluster --bootstrap-expect 0 --tls-dir {directory}")
        note(f"then: shoal cluster add {made.node_id}")


@contextmanager
def _mistakes(key: str) -> Iterator[None]:
    """What a certificate cannot be made of was typed so."""
    from shoal.cluster.certificates import CertificateError

    try:
        yield
    except CertificateError as error:
        raise ConfigError(key, str(error)) from error
    except UnicodeDecodeError as error:
        raise Failure(
            "the token file holds no join token; write it as `shoal ca token` printed it", 2
        ) from error


def _check_node_id(node_id: str) -> None:
    """Before anything is written for it."""
    from shoal.cluster.certificates import make_key, make_request

    with _mistakes("NODE_ID"):
        make_request(node_id, make_key())


def _authority_fields(ca_dir: Path, authorities: Authorities) -> dict[str, Any]:
    from shoal.cluster.certificates import fingerprint, roots

    signs = fingerprint(authorities.signing.certificate)
    trusted = [fingerprint(root) for root in roots(authorities.ca_pem)]
    return {
        "cluster_id": authorities.cluster_id,
        "ca_dir": str(ca_dir),
        "next_step": authorities.next_step,
        "authorities": [{"fingerprint": each.hex(), "signs": each == signs} for each in trusted],
    }


def _identity_fields(identity: Any, directory: Path) -> dict[str, Any]:
    return {
        "cluster_id": identity.cluster_id,
        "node_id": identity.node_id,
        "key_hash": identity.key_hash.hex(),
        "directory": str(directory),
    }


def _token_fields(kept: JoinToken) -> dict[str, Any]:
    return {
        "id": kept.id,
        "node_id": kept.node_id or None,
        "left_s": kept.left_s,
        "created_us": kept.created_us,
        "used_node_id": kept.used_node_id or None,
    }
