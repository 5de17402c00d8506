"""`shoal cluster`: who is in it, what is wrong with it, and changes of that."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from shoal.errors import ConfigError, InvalidRequest, NotFound
from shoal_host.cluster_boards import AGAIN_S, Boards, View, boards_of, views
from shoal_host.diagnosis import best_view, diagnose, member_rows, takes_writes
from shoal_host.exits import UNAVAILABLE, one_line
from shoal_host.options import NAME, Target, target_options
from shoal_host.output import note, print_json, print_table

T = TypeVar("T")

ADOPTED_WAIT_S: Final = 300
_ADDRESS: Final = re.compile(r".+:[0-9]{1,5}")
_COLUMNS: Final = ("id", "role", "url", "alive", "lag")


@click.group()
def cluster() -> None:
    """Look at a cluster and change who is in it.

    Any board may be asked: changes find the leader by themselves, and need a token of role admin.
    """


@cluster.command(
    epilog="""\b
Examples:
  shoal cluster status
  shoal cluster status --url http://board-1:4589 --url http://board-2:4589
"""
)
@target_options
def status(*, target: Target, as_json: bool) -> None:
    """Show the members, the quorum, and what is wrong, with what to do about it.

    The boards named are asked, and those that they name. Exit code 0 when the cluster takes writes, 5 when it does not
    or two boards lead. With --json one document: {"ok", "cluster", "boards": [{"url", "view", "error"}], "findings":
    [{"level", "what", "do"}]}; `cluster` is the leader's view.
    """
    asked = _with_boards(target, lambda boards: boards.ask_all())
    found = views(asked)
    view, findings = best_view(found), diagnose(asked)
    good = takes_writes(findings)
    if as_json:
        boards = [{"url": a.url, "view": a.view, "error": a.error and a.error.code} for a in asked]
        told = [finding.fields() for finding in findings]
        print_json({"ok": good, "cluster": view, "boards": boards, "findings": told})
    else:
        print_table(_COLUMNS, member_rows(view, found))
        click.echo(one_line(_summary(view)))
        for finding in findings:
            click.echo(one_line(f"{finding.level}: {finding.what}. To do: {finding.todo}"))
    if not good:
        sys.exit(UNAVAILABLE)


@cluster.command(
    "transfer-leader",
    epilog="""\b
Examples:
  shoal cluster transfer-leader
  shoal cluster transfer-leader board-2
""",
)
@click.argument("node", metavar="[NODE]", type=NAME, required=False)
@target_options
def transfer_leader(node: str | None, *, target: Target, as_json: bool) -> None:
    """Hand leadership to NODE, or to the member that is furthest. Nothing is lost, writes wait for a moment."""
    view = _change(target, "transfer-leader", {"node_id": node}, lambda view: node in {None, view["leader"]})
    _done(view, f"{view['leader'] or node or 'another board'} leads now", as_json=as_json)


@cluster.command(
    epilog="""\b
Examples:
  shoal cluster add board-4
  shoal cluster add 192.168.1.14:4590 --role witness
  shoal cluster add board-4 --adopt ./shoal-data --url http://board-1:4589
"""
)
@click.argument("board", metavar="NODE|HOST:PORT", type=NAME)
@click.option(
    "--role",
    type=click.Choice(("voter", "learner", "witness")),
    default="voter",
    show_default=True,
    help="A learner never votes; a witness votes, and never leads for long.",
)
@click.option(
    "--adopt",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DATA_DIR",
    help="On the board to add, with its shoald stopped: first give the cluster the events of this directory.",
)
@target_options
def add(board: str, *, role: str, adopt: Path | None, target: Target, as_json: bool) -> None:
    """Add an empty board, named by its node id or by its peer address. It votes when it has caught up.

    It must run with mode = cluster and a certificate of this cluster. A board that was wiped takes the place of what
    it was. One that holds data is refused: --adopt appends its events to the cluster's streams (event ids make that
    safe to repeat), compares a digest, and moves the directory aside; then start the board, and it is added. Adoption
    keeps streams, versions, events and snapshots; positions and times become those of the cluster, and subscriptions
    are not taken along. Streams that the cluster has with other events stop it before anything is written. Where one
    goes on where the other ends, as on a board that was removed, or after an adoption that broke off, what is missing
    is added; a snapshot that the cluster has stays.
    """
    body: dict[str, Any] = {"role": role, "address" if _ADDRESS.fullmatch(board) else "node_id": board}
    if adopt is None:
        view = _change(target, "join", body, lambda view: board in _names(view))
        votes = (
            "it learns until `shoal cluster promote`"
            if role == "learner"
            else "it votes when it has caught up"
        )
        _done(view, f"{board} is added; {votes}", as_json=as_json)
        return
    from shoal_host.adopt import adopt as give

    adopted = asyncio.run(give(adopt, target))
    note(
        f"{adopted.events} events of {adopted.streams} streams are in the cluster, digest {adopted.digest[:16]}"
    )
    note(f"{adopt} is now {adopted.moved_to}; start {board} with an empty data directory, it is waited for")
    view = _with_boards(target, lambda boards: _add_when_met(boards, board, body))
    _done(view | {"adopted": adopted.fields()}, f"{board} is added", as_json=as_json)


async def _add_when_met(boards: Boards, board: str, body: dict[str, Any]) -> View:
    """As soon as the board has been started. Raises NotFound when it is not."""
    try:
        async with asyncio.timeout(ADOPTED_WAIT_S):
            while True:
                with suppress(NotFound):
                    return await boards.change("join", body, lambda view: board in _names(view))
                await asyncio.sleep(AGAIN_S)
    except TimeoutError:
        raise NotFound(
            f"the events are in the cluster, but {board} was not met in {ADOPTED_WAIT_S} s: start it, then "
            f"shoal cluster add {board}"
        ) from None


@cluster.command(
    epilog="""\b
Example:
  shoal cluster remove board-3
"""
)
@click.argument("node", metavar="NODE", type=NAME)
@target_options
def remove(node: str, *, target: Target, as_json: bool) -> None:
    """Remove a member: one that is gone, one to be replaced, also the leader, which hands over.

    The removed board keeps its data and takes no requests any more. To take it back, move its data directory aside,
    start it and add it.
    """
    view = _change(target, "leave", {"node_id": node}, lambda view: node not in _names(view))
    _done(view, f"{node} is no member any more", as_json=as_json)


@cluster.command(
    epilog="""\b
Example:
  shoal cluster promote board-4
"""
)
@click.argument("node", metavar="NODE", type=NAME)
@target_options
def promote(node: str, *, target: Target, as_json: bool) -> None:
    """Make a member vote that was added with --role learner."""
    view = _change(target, "promote", {"node_id": node}, lambda view: node in _names(view, voting=True))
    _done(view, f"{node} votes", as_json=as_json)


@cluster.command(
    epilog="""\b
Examples:
  shoal cluster recover --url http://board-2:4589
  shoal cluster recover --url http://board-2:4589 --confirm board-2@reef
"""
)
@click.option(
    "--confirm",
    metavar="NODE@CLUSTER",
    help="What would be typed: the board that goes on, and its cluster. For scripts.",
)
@target_options
def recover(confirm: str | None, *, target: Target, as_json: bool) -> None:
    """Go on with ONE board when most others are destroyed for ever. Acknowledged events may be lost.

    The board at --url becomes a cluster of one, with all it has; what the destroyed boards had acknowledged and it
    lacks is lost. Refused while a quorum is alive. None of the other boards may ever run again with its old data: two
    histories would go on. Name the survivor with the highest entry, wipe the others, and add them.
    """
    if len(target.urls) != 1:
        raise ConfigError("--url", "name one board, the one that goes on")
    asked = _with_boards(target, lambda boards: boards.ask_all())
    view = asked[0].view or views(asked[:1])[0]
    _require_furthest(view, views(asked))
    wanted = f"{view['node_id']}@{view['cluster_id']}"
    if confirm is None and as_json:
        raise InvalidRequest(_nobody_typed(wanted), pointer="--confirm")
    if confirm is None:
        for line in _warning(view):
            note(one_line(line))
        confirm = _typed(wanted)
    node_id, at, cluster_id = confirm.rpartition("@")
    if confirm != wanted or not at:
        raise InvalidRequest(f"nothing was done: {wanted} was to be typed", pointer="--confirm")
    body = {"node_id": node_id, "cluster_id": cluster_id}
    done = _with_boards(target, lambda boards: boards.post(boards.urls[0], "recover", body))
    text = f"{node_id} goes on alone from entry {view['last_index']}; wipe the other boards, then add them"
    _done(done, text, as_json=as_json)


def _typed(wanted: str) -> str:
    """What a person types. Raises InvalidRequest where there is nobody."""
    try:
        return str(click.prompt(f"Type {wanted} to go on", default="", show_default=False, err=True))
    except click.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        raise InvalidRequest(_nobody_typed(wanted), pointer="--confirm") from None


def _nobody_typed(wanted: str) -> str:
    return f"nothing was done: nobody typed {wanted}; scripts write --confirm {wanted}"


def _require_furthest(view: View, found: list[View]) -> None:
    """No other board that answers has more. Raises InvalidRequest."""
    own = (view["last_term"], view["last_index"])
    further = [
        other["node_id"]
        for other in found
        if other["cluster_id"] == view["cluster_id"] and (other["last_term"], other["last_index"]) > own
    ]
    if further:
        raise InvalidRequest(
            f"STOP: nothing was done: {', '.join(further)} has more than {view['node_id']}, which would be lost. "
            "Recover that one instead; one that cannot be, turn off first",
            pointer="--url",
        )


def _warning(view: View) -> list[str]:
    others = [m["id"] for m in view["members"] if m["id"] != view["node_id"]]
    return [
        f"{view['node_id']} of {view['cluster_id']} has entry {view['last_index']} of term {view['last_term']}.",
        "It will go on as a cluster of one.",
        "Acknowledged events that only the others had are lost, and their positions are given anew.",
        f"These must never run again with their data: {', '.join(others) or 'nobody'}.",
    ]


def _summary(view: View) -> str:
    quorum = view["quorum"]
    if not view["members"]:
        return f"cluster {view['cluster_id']} has not begun here"
    margin = quorum["margin"]
    may = "nothing can be written" if margin < 0 else f"{margin} may fail" if margin else "none may fail"
    return (
        f"cluster {view['cluster_id']}, leader {view['leader'] or 'none'}, term {view['term']}; "
        f"quorum: {quorum['size']} needed, {quorum['alive']} alive, {may}"
    )


def _done(view: View, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        click.echo(one_line(text))


def _names(view: View, *, voting: bool = False) -> set[str]:
    """Node ids and peer addresses of the members."""
    members = [member for member in view["members"] if not voting or member["role"] != "learner"]
    return {name for member in members for name in (member["id"], *member["addresses"])}


def _change(target: Target, what: str, body: dict[str, Any], done: Callable[[View], bool]) -> View:
    return _with_boards(target, lambda boards: boards.change(what, body, done))


def _with_boards(target: Target, use: Callable[[Boards], Awaitable[T]]) -> T:
    async def run() -> T:
        async with boards_of(target) as boards:
            return await use(boards)

    return asyncio.run(run())
