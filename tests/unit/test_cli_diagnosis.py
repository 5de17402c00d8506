"""What is said of a cluster, from what its boards say."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import Forbidden, ShoalError, Unauthorized, Unreachable
from shoal_host.cluster_boards import Asked
from shoal_host.diagnosis import best_view, diagnose, member_rows, takes_writes


def member(name: str, role: str = "follower", *, alive: bool = True, lag: int | None = 0) -> dict[str, Any]:
    return {
        "id": name,
        "url": f"http://{name}:4589",
        "role": role,
        "match_index": None,
        "lag": lag,
        "alive": alive,
        "addresses": [f"{name}:4590"],
    }


def view(name: str = "n1", **values: Any) -> dict[str, Any]:
    """A cluster of three that is well, as `name` sees it."""
    members = values.pop("members", [member("n1", "leader"), member("n2"), member("n3")])
    voting = [m for m in members if m["role"] != "learner"]
    size, alive = len(voting) // 2 + 1, sum(m["alive"] for m in voting)
    return {
        "cluster_id": "reef",
        "node_id": name,
        "role": "leader" if name == "n1" else "follower",
        "leader": "n1",
        "term": 3,
        "commit_index": 9,
        "applied_index": 9,
        "last_index": 9,
        "last_term": 3,
        "members": members,
        "quorum": {"size": size, "alive": alive, "margin": alive - size},
        "met": [],
        "disk_full": False,
        "removed": False,
        "status": "",
    } | values


def asked(*found: dict[str, Any]) -> list[Asked]:
    return [Asked(f"http://{each['node_id']}:4589", each) for each in found]


def told(*found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each.level, each.what, each.todo) for each in diagnose(asked(*found))]


def test_a_cluster_that_is_well_has_no_findings() -> None:
    assert diagnose(asked(view(), view("n2"), view("n3"))) == []


def test_two_leaders_are_a_split_brain() -> None:
    found = asked(view(), view("n3", role="leader", leader="n3", term=5))
    finding = diagnose(found)[0]
    assert (finding.level, finding.what) == (
        "error",
        "split brain: n1 leads in term 3 and n3 leads in term 5",
    )
    assert not takes_writes(diagnose(found))
    assert best_view([each.view for each in found if each.view])["node_id"] == "n3"


def test_no_quorum_names_who_is_down_and_what_to_do() -> None:
    members = [member("n1"), member("n2", alive=False), member("n3", alive=False)]
    level, what, todo = told(view(members=members, role="follower", leader=None))[0]
    assert level == "error"
    assert "1 of 3 voters are alive and 2 are needed" in what
    assert "Not reached: n2, n3" in what
    assert todo.startswith("start n2, n3")
    assert "shoal cluster recover" in todo


def test_a_board_that_is_down_is_named_and_the_margin_is_gone() -> None:
    members = [member("n1", "leader"), member("n2"), member("n3", alive=False)]
    found = told(view(members=members), view("n2", members=members))
    assert [level for level, _, _ in found] == ["warning", "warning"]
    assert "no board may fail now" in found[0][1]
    assert "n3 is down" in found[1][1]
    assert "shoal cluster remove n3" in found[1][2]
    assert takes_writes(diagnose(asked(view(members=members))))


def test_a_board_that_only_the_leader_misses_is_a_matter_of_the_network() -> None:
    members = [member("n1", "leader"), member("n2"), member("n3", alive=False)]
    assert "n1 does not reach n3, which answers here" in str(told(view(members=members), view("n3")))
    refused = view("n3") | {"status": "its key is older"}
    assert "n3 says: its key is older" in str(told(view(members=members), refused))


@pytest.mark.parametrize(
    ("values", "level", "word", "todo"),
    [
        ({"disk_full": True}, "warning", "the disk of n1 is full", "free some space"),
        ({"removed": True, "status": "no member"}, "warning", "n1: no member", "wipe n1"),
        ({"met": [{"id": "n4", "addresses": [], "empty": True}]}, "info", "n4 waits", "shoal cluster add n4"),
        (
            {"met": [{"id": "n3", "addresses": [], "empty": True}]},
            "warning",
            "n3 was wiped",
            "shoal cluster add n3",
        ),
        ({"met": [{"id": "n4", "addresses": [], "empty": False}]}, "warning", "n4 holds data", "turn it off"),
        ({"leader": None, "role": "follower"}, "error", "no leader", "wait"),
        (
            {"leader": None, "role": "follower", "status": "its key is old"},
            "error",
            "no leader",
            "key is old",
        ),
        ({"members": [], "status": "1 of 3 boards are known"}, "error", "1 of 3 boards", "shoal discover"),
    ],
)
def test_each_trouble_has_a_sentence_and_an_advice(
    values: dict[str, Any], level: str, word: str, todo: str
) -> None:
    found = told(view(**values))
    assert any(
        found_level == level and word in what and todo in advice for found_level, what, advice in found
    )


def test_a_wiped_board_is_no_matter_of_the_network() -> None:
    members = [member("n1", "leader"), member("n2"), member("n3", alive=False)]
    found = told(view(members=members, met=[{"id": "n3", "addresses": [], "empty": True}]), view("n3"))
    assert "n3 was wiped and waits to be added again" in [what for _, what, _ in found]
    assert "does not reach" not in str(found)


def test_before_a_group_has_begun_nobody_waits_to_be_added() -> None:
    met = [{"id": "n2", "addresses": [], "empty": True}]
    found = told(view(members=[], met=met, leader=None, status="2 of 3 boards are here"))
    assert [what for _, what, _ in found] == ["2 of 3 boards are here"]


@pytest.mark.parametrize("error", [Unauthorized("who are you"), Forbidden("not for you")])
def test_a_board_that_wants_another_token_is_no_matter_of_the_network(error: ShoalError) -> None:
    for others in ((), asked(view())):
        found = diagnose([*others, Asked("http://n9", error=error)])
        assert any("give a token" in finding.todo for finding in found)


def test_learners_and_members_that_lag_are_named() -> None:
    members = [member("n1", "leader"), member("n2", lag=5_000), member("n3"), member("n4", "learner")]
    found = told(view(members=members))
    assert [what for _, what, _ in found] == ["n2 is 5,000 entries behind", "n4 learns and does not vote"]


def test_boards_of_two_clusters_are_not_mixed_up() -> None:
    found = told(view(), view("n3", role="leader", leader="n3", cluster_id="reed"))
    assert found[0][1] == "the boards asked belong to 2 clusters: reed, reef"
    assert "split" not in str(found)


def test_a_url_that_does_not_answer_is_a_finding() -> None:
    found = diagnose([*asked(view()), Asked("http://x:1", error=Unreachable("no answer from http://x:1"))])
    assert "no answer from http://x:1" in found[0].what


def test_a_lag_that_the_leader_does_not_tell_is_taken_from_the_board_itself() -> None:
    members = [member("n1", "leader"), member("n2", lag=None)]
    rows = member_rows(view(members=members), [view(members=members), view("n2", applied_index=4)])
    assert rows[1] == ("n2", "follower", "http://n2:4589", "yes", 5)
