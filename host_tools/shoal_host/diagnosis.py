"""What is wrong with a cluster, in words, from what its boards say: pure, for `shoal cluster status` and `doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shoal.errors import Forbidden, ShoalError, Unauthorized
from shoal_host.cluster_boards import Asked, View

LAG_ENTRIES = 1_000
"""A member that lacks more is worth a word."""
_TWO = 2

Level = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know: what it is, and what to do about it."""

    level: Level
    what: str
    todo: str

    def fields(self) -> dict[str, str]:
        """For programs."""
        return {"level": self.level, "what": self.what, "do": self.todo}


def best_view(found: Sequence[View]) -> View:
    """The leader's, of two leaders the later one's; without one that of whoever knows most."""
    return max(found, key=lambda view: (view["role"] == "leader", view["term"], view["last_index"]))


def diagnose(asked: Sequence[Asked]) -> list[Finding]:
    """All findings, the worst first."""
    found = [each.view for each in asked if each.view is not None]
    if not found:
        return [Finding("error", str(each.error), _todo(each.error)) for each in asked]
    view = best_view(found)
    findings = [
        *_clusters(found),
        *_leaders(found),
        *_quorum(view),
        *_down(view, asked),
        *(finding for each in found for finding in _of_board(each)),
        *_members(view),
        *(_strangers(view) if view["members"] else ()),
    ]
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def takes_writes(findings: Iterable[Finding]) -> bool:
    """Whether nothing was found that keeps the cluster from taking writes, or that makes two of it."""
    return all(finding.level != "error" for finding in findings)


def _clusters(found: Sequence[View]) -> Iterator[Finding]:
    ids = sorted({view["cluster_id"] for view in found})
    if len(ids) > 1:
        yield Finding(
            "error",
            f"the boards asked belong to {len(ids)} clusters: {', '.join(ids)}",
            "name boards of one cluster only",
        )


def _leaders(found: Sequence[View]) -> Iterator[Finding]:
    leaders = sorted((v["term"], v["node_id"]) for v in found if v["role"] == "leader")
    if len({node_id for _, node_id in leaders}) < _TWO or len({v["cluster_id"] for v in found}) > 1:
        return
    told = " and ".join(f"{node_id} leads in term {term}" for term, node_id in leaders)
    yield Finding(
        "error",
        f"split brain: {told}",
        "ask again in a few seconds: a leader that was cut off notices and steps down. If both stay, somebody has run "
        "`shoal cluster recover` while others lived: stop the boards of the one with fewer events, move their data "
        "directories aside, and add them to the other",
    )


def _quorum(view: View) -> Iterator[Finding]:
    quorum = view["quorum"]
    voting = [m for m in view["members"] if m["role"] != "learner"]
    if not view["members"]:
        yield Finding(
            "error", view["status"] or "no group has begun", "see `shoal discover` and `shoal doctor`"
        )
    elif quorum["margin"] < 0:
        down = ", ".join(m["id"] for m in voting if not m["alive"])
        yield Finding(
            "error",
            f"no quorum: {quorum['alive']} of {len(voting)} voters are alive and {quorum['size']} are needed; nothing "
            f"can be written. Not reached: {down}",
            f"start {down}; only if they are destroyed for ever: shoal cluster recover",
        )
    elif view["leader"] is None:
        todo = view["status"] or "wait a second or two, an election is under way"
        yield Finding("error", "there is no leader", todo)
    elif quorum["margin"] == 0 and len(voting) > 1:
        todo = "bring back the board that is down"
        if all(m["alive"] for m in voting):
            todo = "add one: shoal cluster add NODE, or --role witness for a third device"
        yield Finding("warning", "no board may fail now: one more, and nothing can be written", todo)


def _down(view: View, asked: Sequence[Asked]) -> Iterator[Finding]:
    answering = {each.view["node_id"]: each.view for each in asked if each.view is not None}
    for member in view["members"]:
        name = member["id"]
        if not member["alive"] and name not in answering:
            gone = f"; if it is gone for good: shoal cluster remove {name}" if view["leader"] else ""
            yield Finding(
                "warning",
                f"{name} is down: neither {view['node_id']} nor this machine reaches it",
                f"see whether it has power and shoald runs{gone}",
            )
        elif not member["alive"] and not _was_wiped(view, name):
            said = answering[name]["status"]
            where = " ".join(member["addresses"]) or "its peer address"
            yield Finding(
                "warning",
                f"{view['node_id']} does not reach {name}, which answers here",
                f"{name} says: {said}" if said else f"look at the network between them, at {where}",
            )
    down = {member["url"].rstrip("/") for member in view["members"] if not member["alive"]}
    for each in asked:
        if each.error is not None and each.url not in down:
            yield Finding("warning", f"{each.url}: {each.error}", _todo(each.error))


def _todo(error: ShoalError | None) -> str:
    if isinstance(error, Unauthorized | Forbidden):
        return "give a token that this board knows, with --token; boards that share a tokens.json know the same ones"
    return "see whether shoald runs there, and this machine may reach it"


def _was_wiped(view: View, name: str) -> bool:
    return any(met["empty"] and met["id"] == name for met in view["met"])


def _of_board(view: View) -> Iterator[Finding]:
    name = view["node_id"]
    if view["disk_full"]:
        yield Finding(
            "warning",
            f"the disk of {name} is full: it refuses appends",
            f"free some space on {name}; reads go on",
        )
    if view["removed"]:
        yield Finding("warning", f"{name}: {view['status']}", f"wipe {name} and add it again, or turn it off")
    elif view["status"] and view["members"] and view["leader"] is not None:
        yield Finding("info", f"{name}: {view['status']}", "nothing, if it does not last")


def _members(view: View) -> Iterator[Finding]:
    for member in view["members"]:
        if member["role"] == "learner":
            yield Finding(
                "info",
                f"{member['id']} learns and does not vote",
                f"nothing: it votes when it has caught up. One added with --role learner: shoal cluster promote "
                f"{member['id']}",
            )
        if (member["lag"] or 0) > LAG_ENTRIES and member["alive"]:
            yield Finding(
                "warning",
                f"{member['id']} is {member['lag']:,} entries behind",
                "wait, or look at its disk and network",
            )


def _strangers(view: View) -> Iterator[Finding]:
    members = {member["id"] for member in view["members"]}
    for met in view["met"]:
        name = met["id"]
        if met["empty"] and name in members:
            what = f"{name} was wiped and waits to be added again"
            yield Finding("warning", what, f"shoal cluster add {name}")
        elif met["empty"]:
            yield Finding("info", f"{name} waits to be added", f"shoal cluster add {name}")
        else:
            yield Finding(
                "warning",
                f"{name} holds data of this cluster and is no member of it",
                "turn it off, or move its data directory aside and add it again",
            )


def member_rows(view: View, found: Sequence[View]) -> list[tuple[Any, ...]]:
    """The table of members: id, role, url, alive, lag; with what each says of itself where it was asked."""
    own = {each["node_id"]: each for each in found}
    rows = []
    for member in view["members"]:
        asked = own.get(member["id"])
        alive = "yes" if member["alive"] else "no"
        lag = member["lag"]
        if lag is None and asked is not None:
            lag = max(0, view["commit_index"] - asked["applied_index"])
        rows.append((member["id"], member["role"], member["url"], alive, lag))
    return rows
