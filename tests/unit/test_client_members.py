"""Which boards a client knows: it asks one for the members of its cluster, now and then, and whenever one fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.client.boards import Board, Boards
from shoal.client.members import AGAIN_MS, REFRESH_MS, Members, is_base
from shoal.errors import Forbidden, NotFound, Unreachable
from shoal.testing.clock import FakeClock


def member(node_id: str, url: str, role: str = "follower", *, alive: bool = True) -> dict[str, Any]:
    return {
        "id": node_id,
        "url": url,
        "role": role,
        "match_index": None,
        "lag": None,
        "alive": alive,
        "addresses": [f"{node_id}:4590"],
    }


def view(
    *members: dict[str, Any], leader: str | None = None, node_id: str = "A", removed: bool = False
) -> bytes:
    """As `GET /v1/cluster` answers."""
    quorum = {"size": 2, "alive": 3, "margin": 1}
    known = {
        "cluster_id": "c",
        "node_id": node_id,
        "role": "follower",
        "leader": leader,
        "term": 3,
        "met": [],
    }
    return json.dumps(
        known | {"status": "member", "removed": removed, "quorum": quorum, "members": members}
    ).encode()


class Asked:
    """Members of the boards at `urls`, whose answers a test gives by url."""

    def __init__(self, *urls: str) -> None:
        self.clock = FakeClock()
        self.boards = Boards(urls)
        self.answers: dict[str, Any] = {}
        self.questions: list[str] = []
        tls = all(url.startswith("https") for url in urls)
        self.members = Members(self.boards, self._ask, self.clock.monotonic_ms, tls=tls)

    async def _ask(self, board: Board) -> bytes:
        self.questions.append(board.url)
        found = self.answers.get(board.url, Unreachable("nobody"))
        if isinstance(found, Exception):
            raise found
        return bytes(found)

    async def learn(self) -> set[str]:
        """What is known after the next question."""
        self.members.freshen()
        await self.members.settled()
        return {board.url for board in self.boards.likeliest(self.clock.monotonic_ms())}


A, B, C = (member(name, f"http://{name.lower()}") for name in "ABC")


async def test_the_others_are_learned_from_one_and_so_is_the_leader() -> None:
    asked = Asked("http://a")
    asked.answers["http://a"] = view(A, B, C, leader="C")
    assert await asked.learn() == {"http://a", "http://b", "http://c"}
    assert asked.boards.pick(0, leader_first=True).url == "http://c"


async def test_a_board_that_left_is_forgotten() -> None:
    asked = Asked("http://a")
    asked.answers["http://a"] = view(A, B, C)
    await asked.learn()
    asked.answers["http://a"] = view(A, B)
    asked.clock.advance(REFRESH_MS)
    assert await asked.learn() == {"http://a", "http://b"}


@pytest.mark.parametrize(
    "stranger",
    [
        member("B", "http://b", "witness"),
        member("B", "http://b", alive=False),
        member("B", ""),
        member("B", "ftp://b"),
        member("B", "http://user:secret@b"),
        member("B", "http://b?x=1"),
        member("B", "http://b:99999"),
    ],
)
async def test_what_cannot_serve_or_is_no_board_is_not_asked(stranger: dict[str, Any]) -> None:
    asked = Asked("http://a")
    asked.answers["http://a"] = view(A, stranger, C)
    assert await asked.learn() == {"http://a", "http://c"}


async def test_a_learner_serves_reads() -> None:
    asked = Asked("http://a")
    asked.answers["http://a"] = view(A, member("B", "http://b/", "learner"))
    assert await asked.learn() == {"http://a", "http://b"}


async def test_who_was_given_tls_goes_nowhere_without_it() -> None:
    asked = Asked("https://a")
    asked.answers["https://a"] = view(member("A", "https://a"), B, member("C", "https://c"))
    assert await asked.learn() == {"https://a", "https://c"}


async def test_a_board_without_a_cluster_is_one_board_and_is_asked_seldom() -> None:
    asked = Asked("http://a", "http://b")
    asked.answers["http://a"] = NotFound("no such route")
    for _ in range(3):
        assert await asked.learn() == {"http://a", "http://b"}
    assert asked.questions == ["http://a"]
    asked.clock.advance(REFRESH_MS)
    await asked.learn()
    assert asked.questions == ["http://a"] * 2


@pytest.mark.parametrize("bad", [Unreachable("x"), Forbidden("x"), b"", b"[]", b"\xff", b'{"members": 3}'])
async def test_where_one_gives_no_answer_the_next_is_asked(bad: Any) -> None:
    asked = Asked("http://a", "http://b")
    asked.answers = {"http://a": bad, "http://b": view(A, B, C, node_id="B")}
    assert await asked.learn() == {"http://a", "http://b", "http://c"}
    assert asked.questions == ["http://a", "http://b"]


@pytest.mark.parametrize("stale", [view(A, B, removed=True), view(), view(B, member("X", "http://x"))])
async def test_a_board_that_is_no_member_is_not_believed(stale: bytes) -> None:
    asked = Asked("http://a", "http://b")
    asked.answers = {"http://a": stale, "http://b": view(B, C, node_id="B")}
    assert await asked.learn() == {"http://a", "http://b", "http://c"}


async def test_a_failure_asks_anew_but_no_more_than_once_in_a_while() -> None:
    asked = Asked("http://a")
    asked.answers["http://a"] = view(A)
    await asked.learn()
    for _ in range(5):
        asked.members.doubted()
        await asked.members.settled()
    assert len(asked.questions) == 1
    asked.clock.advance(AGAIN_MS)
    asked.members.doubted()
    asked.members.doubted()
    await asked.members.settled()
    assert len(asked.questions) == 2


async def test_nothing_is_asked_after_closing() -> None:
    asked = Asked("http://a")
    await asked.members.close()
    asked.members.freshen()
    asked.members.doubted()
    await asked.members.settled()
    assert asked.questions == []


@pytest.mark.parametrize("url", ["http://[::1]:4589", "https://board-1", "HTTP://127.0.0.1:80"])
def test_what_is_the_address_of_a_board(url: str) -> None:
    assert is_base(url)
