"""Bootstrap: who asks, who promises, what is refused, and what a board says of its waiting."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from bootstrap_kit import Board, Fleet, candidate

from shoal.cluster.bootstrap import ASK_AGAIN_MS, CANDIDATES_MAX, OUTBOX_MAX, SETTLE_MS, Bootstrap
from shoal.cluster.log_start import configuration_record
from shoal.cluster.promise import (
    BOOTSTRAP_FILE,
    MESSAGE_BYTES_MAX,
    AskGrant,
    Begin,
    Grant,
    Promise,
    Refuse,
    decode,
    encode,
    load_promise,
    members_hash,
    save_promise,
)
from shoal.errors import StorageError
from shoal.raft.log import Configuration, Kind
from shoal.raft.membership import MEMBERS_MAX

MEMBERS = tuple(candidate(name).member() for name in "abc")
ALL = ["a", "b", "c"]


def waiting(name: str, expect: int = 3, *others: str) -> Bootstrap:
    machine = Bootstrap(candidate(name), expect)
    for other in others:
        machine.hear(candidate(other), 0)
    machine.handle_deadline(SETTLE_MS)
    return machine


def promised(name: str, *, begun: bool = False) -> Bootstrap:
    return Bootstrap(candidate(name), 3, Promise(MEMBERS, begun))


class TestBeginning:
    """All boards there, nothing lost."""

    def test_all_begin_the_same_group(self) -> None:
        fleet = Fleet("c", "a", "b")
        fleet.meet_all()
        fleet.settle()
        assert fleet.groups() == [ALL] * 3
        assert len(fleet.begun) == 1

    def test_nine_begin_too(self) -> None:
        fleet = Fleet(*"abcdefghi")
        fleet.meet_all()
        fleet.settle()
        assert fleet.groups() == [list("abcdefghi")] * MEMBERS_MAX

    def test_the_first_record_is_the_configuration_of_all_as_found_group_writes_it(self) -> None:
        kind, index, term, payload = configuration_record(Configuration(MEMBERS))
        assert (kind, index, term) == (Kind.CONFIGURATION, 1, 0)
        assert msgspec.msgpack.decode(payload, type=Configuration) == Configuration(MEMBERS)

    def test_only_the_lowest_asks(self) -> None:
        assert waiting("a", 3, "b", "c").to_save == Promise(MEMBERS)
        other = waiting("b", 3, "a", "c")
        assert (other.to_save, other.ready(), other.deadline_ms) == (None, [], None)

    def test_nothing_leaves_before_the_promise_is_durable(self) -> None:
        machine = waiting("a", 3, "b", "c")
        assert machine.ready() == []
        promise = machine.to_save
        assert promise is not None
        machine.saved(Promise(MEMBERS))  # an equal one is not the one that was taken
        assert machine.ready() == []
        machine.saved(promise)
        assert machine.ready() == [("b", AskGrant(MEMBERS)), ("c", AskGrant(MEMBERS))]

    def test_a_group_has_not_begun_before_that_is_durable(self) -> None:
        machine = promised("a")
        for name in "bc":
            machine.step(name, Grant(members_hash(MEMBERS)), 0)
        assert (machine.begun, machine.ready()) == (None, [])
        promise = machine.to_save
        assert promise == Promise(MEMBERS, begun=True)
        machine.saved(promise)
        assert machine.begun == MEMBERS
        assert machine.ready() == [("b", Begin(MEMBERS)), ("c", Begin(MEMBERS))]


class TestGrants:
    """When a board promises itself, and to whom."""

    def asked(self, machine: Bootstrap, sender: str = "a", members: tuple = MEMBERS) -> object:  # type: ignore[type-arg] # of members
        machine.step(sender, AskGrant(members), 0)
        if machine.to_save is not None:
            machine.saved(machine.to_save)
        ((to, answer),) = machine.ready()
        assert to == sender
        return answer

    def test_it_promises_itself_to_whom_it_knows(self) -> None:
        assert self.asked(waiting("b", 3, "a", "c")) == Grant(members_hash(MEMBERS))

    def test_one_that_it_has_not_met_is_refused(self) -> None:
        answer = self.asked(waiting("b", 3, "a"))
        assert isinstance(answer, Refuse)
        assert "waiting for 1 more" in answer.reason

    def test_another_list_than_the_promised_one_is_refused_for_ever(self) -> None:
        machine = promised("b")
        other = tuple(candidate(name).member() for name in "abd")
        assert self.asked(machine, "a", other) == Refuse("b has promised itself to another group")
        assert self.asked(machine) == Grant(members_hash(MEMBERS))

    @pytest.mark.parametrize("change", ["incarnation", "key_hash", "voter", "witness"])
    def test_a_member_that_is_not_as_it_was_met_is_refused(self, change: str) -> None:
        wrong = {"incarnation": b"other", "key_hash": b"other", "voter": False, "witness": True}
        for index in range(3):
            members = list(MEMBERS)
            members[index] = msgspec.structs.replace(members[index], **{change: wrong[change]})
            assert isinstance(self.asked(waiting("b", 3, "a", "c"), "a", tuple(members)), Refuse)

    def test_addresses_may_differ_and_the_initiators_are_kept(self) -> None:
        members = (msgspec.structs.replace(MEMBERS[0], addresses=("new:1",)), *MEMBERS[1:])
        assert self.asked(waiting("b", 3, "a", "c"), "a", members) == Grant(members_hash(members))

    @pytest.mark.parametrize("members", [MEMBERS[:2], MEMBERS[::-1], (*MEMBERS, MEMBERS[2]), MEMBERS[1:]])
    def test_a_list_that_is_not_all_in_order_is_refused(self, members: tuple) -> None:  # type: ignore[type-arg] # of members
        assert isinstance(self.asked(waiting("b", 3, "a", "c"), "a", members), Refuse)

    def test_only_the_lowest_is_promised_to(self) -> None:
        assert self.asked(waiting("b", 3, "a", "c"), "c") == Refuse("a has to begin, not c")

    def test_a_board_with_data_promises_nothing(self) -> None:
        machine = Bootstrap(candidate("b", empty=False), 3)
        for name in "ac":
            machine.hear(candidate(name), 0)
        answer = self.asked(machine)
        assert isinstance(answer, Refuse)
        assert "holds data" in answer.reason

    def test_one_of_an_earlier_incarnation_counts_no_more(self) -> None:
        fleet = Fleet("a", "b", "c")
        fleet.meet_all()
        fleet.boards["c"].wipe("c")
        fleet.settle()
        assert fleet.begun == set()
        assert "c was wiped" not in fleet.boards["a"].machine.status()
        fleet.meet("a", "c")
        assert "c was wiped" in fleet.boards["a"].machine.status()


class TestInitiator:
    """What the board that asks believes."""

    def test_grants_of_other_lists_and_of_strangers_do_not_count(self) -> None:
        machine = promised("a")
        machine.step("b", Grant(members_hash(MEMBERS)), 0)
        machine.step("b", Grant(members_hash(MEMBERS)), 0)
        machine.step("c", Grant(b"\0" * 32), 0)
        machine.step("d", Grant(members_hash(MEMBERS)), 0)
        machine.step("a", Grant(members_hash(MEMBERS)), 0)
        assert machine.to_save is None

    def test_no_other_board_begins_by_grants(self) -> None:
        machine = promised("b")
        for name in "ac":
            machine.step(name, Grant(members_hash(MEMBERS)), 0)
        assert machine.to_save is None

    def test_it_asks_again_at_the_deadline_whom_it_has_no_word_of(self) -> None:
        machine = promised("a")
        machine.handle_deadline(5)
        assert [to for to, _ in machine.ready()] == ["b", "c"]
        machine.step("b", Grant(members_hash(MEMBERS)), 6)
        assert machine.deadline_ms == 5 + ASK_AGAIN_MS
        machine.handle_deadline(4 + ASK_AGAIN_MS)
        assert machine.ready() == []
        machine.handle_deadline(5 + ASK_AGAIN_MS)
        assert machine.ready() == [("c", AskGrant(MEMBERS))]


class TestBegin:
    """Word of the beginning."""

    def test_it_is_believed_from_a_member_for_exactly_the_promised_list(self) -> None:
        for sender, members, begins in [
            ("a", MEMBERS, True),
            ("c", MEMBERS, True),
            ("d", MEMBERS, False),
            ("a", MEMBERS[:2], False),
        ]:
            machine = promised("b")
            machine.step(sender, Begin(members), 0)
            assert (machine.to_save is not None) is begins

    def test_without_a_promise_it_is_nothing(self) -> None:
        machine = waiting("b", 3, "a", "c")
        machine.step("a", Begin(MEMBERS), 0)
        assert machine.to_save is None

    def test_whoever_has_begun_tells_those_who_missed_it(self) -> None:
        machine = promised("c", begun=True)
        machine.step("b", Grant(members_hash(MEMBERS)), 0)
        machine.step("a", AskGrant(MEMBERS), 0)
        assert machine.ready() == [("b", Begin(MEMBERS)), ("a", Begin(MEMBERS))]

    def test_a_member_that_waits_asks_all_of_them(self) -> None:
        machine = promised("b")
        machine.handle_deadline(0)
        assert [to for to, _ in machine.ready()] == ["a", "c"]

    def test_a_begun_one_has_no_deadline(self) -> None:
        machine = promised("b", begun=True)
        assert (machine.deadline_ms, machine.begun) == (None, MEMBERS)

    def test_the_initiator_may_be_wiped_after_it_began(self) -> None:
        fleet = Fleet("a", "b", "c")
        fleet.boards["a"].crash()
        for name in ("b", "c"):
            fleet.boards[name].saved = Promise(MEMBERS, begun=name == "c")
            fleet.boards[name].crash()
        fleet.settle()
        assert fleet.groups() == [[], ALL, ALL]


class TestCounts:
    """Too few, too many, others."""

    def test_more_than_expected_begin_nothing_and_say_so(self) -> None:
        fleet = Fleet("a", "b", "c", "d", expect=3)
        fleet.meet_all()
        fleet.settle()
        assert fleet.groups() == [[]] * 4
        said = "4 of 3 boards are known: a, b, c, d, more than bootstrap_expect: none begins"
        assert all(board.machine.status().startswith(said) for board in fleet.boards.values())

    def test_it_asks_only_when_nobody_came_or_went_for_a_while(self) -> None:
        machine = Bootstrap(candidate("a"), 3)
        for at_ms, name in ((0, "b"), (10, "c"), (20, "d")):
            machine.hear(candidate(name), at_ms)
        assert machine.deadline_ms is None
        machine.lost("d", 30)
        machine.hear(candidate("c"), 500)  # the same once more is no news
        assert machine.deadline_ms == 30 + SETTLE_MS
        machine.handle_deadline(29 + SETTLE_MS)
        assert machine.to_save is None
        machine.handle_deadline(30 + SETTLE_MS)
        assert machine.to_save == Promise(MEMBERS)

    def test_one_too_many_that_leaves_is_forgotten(self) -> None:
        machine = Bootstrap(candidate("b"), 3)
        for name in "acd":
            machine.hear(candidate(name), 0)
        machine.lost("d", 0)
        machine.lost("b", 0)
        assert "a, the first by name, has to begin" in machine.status()

    def test_the_cluster_id_tells_them_apart(self) -> None:
        machine = Bootstrap(candidate("b", cluster_id="reef"), 3)
        for name, cluster_id in (("a", "pond"), ("c", "reef"), ("d", ""), ("e", "pond")):
            machine.hear(candidate(name, cluster_id=cluster_id), 0)
        assert "2 of 3 boards are known: b, c; waiting for 1 more" in machine.status()
        assert "of another cluster_id: a, d, e" in machine.status()
        machine.hear(candidate("f", cluster_id="reef"), 0)
        machine.handle_deadline(SETTLE_MS)
        assert machine.to_save is not None
        assert [member.node_id for member in machine.to_save.members] == ["b", "c", "f"]

    def test_where_a_cluster_is_no_new_one_begins(self) -> None:
        machine = waiting("a", 3, "b")
        machine.hear(candidate("c", empty=False, cluster_id="reef"), 0)
        machine.handle_deadline(SETTLE_MS)
        assert machine.to_save is None
        assert "c hold data already: have this board added" in machine.status()

    def test_the_status_names_who_has_not_promised_and_why(self) -> None:
        machine = promised("a")
        machine.step("b", Refuse("b: is busy"), 0)
        machine.step("d", Refuse("is no member"), 0)
        assert machine.status() == (
            "the group of a, b, c waits for the promise of b, c; b refuses: b: is busy"
        )
        machine.step("b", Grant(members_hash(MEMBERS)), 0)
        assert machine.status() == "the group of a, b, c waits for the promise of c"

    def test_the_status_of_the_others(self) -> None:
        assert "waiting for word of its beginning" in promised("b").status()
        assert promised("b", begun=True).status() == "the group of a, b, c has begun"

    def test_memory_is_bounded(self) -> None:
        machine = waiting("z", 9)
        for number in range(1000):
            machine.hear(candidate(f"n{number}"), 0)
            machine.step(f"n{number}", AskGrant(MEMBERS), 0)
        assert len(machine._candidates) == CANDIDATES_MAX
        assert len(machine.ready()) == OUTBOX_MAX


class TestRestart:
    """What a crash leaves."""

    def test_a_promise_that_was_not_saved_never_left(self) -> None:
        board = Board("a", 3)
        for name in "bc":
            board.machine.hear(candidate(name), 0)
        board.machine.handle_deadline(SETTLE_MS)
        assert board.machine.to_save is not None
        board.crash()
        assert board.saved is None
        assert board.machine.ready() == []

    def test_a_restarted_initiator_asks_for_the_very_same_list(self) -> None:
        own = candidate("a", addresses=("moved:1",))
        machine = Bootstrap(own, 3, Promise(MEMBERS))
        machine.handle_deadline(0)
        assert machine.ready()[0] == ("b", AskGrant(MEMBERS))

    def test_the_promise_of_an_earlier_incarnation_is_void(self) -> None:
        machine = Bootstrap(candidate("b", life=2), 3, Promise(MEMBERS, begun=True))
        assert (machine.begun, machine.deadline_ms) == (None, None)
        assert "1 of 3 boards are known: b" in machine.status()

    def test_a_new_key_alone_does_not_free_a_board(self) -> None:
        own = msgspec.structs.replace(candidate("b"), key_hash=b"new")
        machine = Bootstrap(own, 3, Promise(MEMBERS))
        assert "b was wiped or is another board" in machine.status()


class TestFile:
    """`bootstrap.json`."""

    def test_it_comes_back(self, tmp_path: Path) -> None:
        assert load_promise(tmp_path) is None
        for promise in (Promise(MEMBERS), Promise(MEMBERS, begun=True)):
            save_promise(tmp_path, promise)
            assert load_promise(tmp_path) == promise

    def test_a_damaged_one_is_refused_in_words(self, tmp_path: Path) -> None:
        save_promise(tmp_path, Promise(MEMBERS))
        path = tmp_path / BOOTSTRAP_FILE
        whole = path.read_bytes()
        for damaged in (
            b"",
            whole[:-10],
            whole.replace(b"false", b"true"),
            whole.replace(b"a:4590", b"x:4590"),
        ):
            path.write_bytes(damaged)
            with pytest.raises(StorageError, match="move the whole data directory aside"):
                load_promise(tmp_path)

    def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def seen_fsync(descriptor: int) -> None:
            calls.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
            fsync(descriptor)

        def seen_replace(self: Path, target: Path) -> Path:
            calls.append("replace")
            return replace(self, target)

        monkeypatch.setattr(os, "fsync", seen_fsync)
        monkeypatch.setattr(Path, "replace", seen_replace)
        save_promise(tmp_path / "data", Promise(MEMBERS))
        assert calls == [f"fsync {BOOTSTRAP_FILE}.new", "replace", "fsync data"]


def test_messages_come_back() -> None:
    for message in (AskGrant(MEMBERS), Begin(MEMBERS), Grant(members_hash(MEMBERS)), Refuse("not now")):
        assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        AskGrant(()),
        AskGrant(MEMBERS[:1]),
        Begin(MEMBERS * 4),
        AskGrant((MEMBERS[0], msgspec.structs.replace(MEMBERS[1], node_id=""))),
        AskGrant((MEMBERS[0], msgspec.structs.replace(MEMBERS[1], node_id="b\n"))),
        AskGrant((MEMBERS[0], msgspec.structs.replace(MEMBERS[1], incarnation=b"x" * 65))),
        AskGrant((MEMBERS[0], msgspec.structs.replace(MEMBERS[1], addresses=("a:1",) * 9))),
        AskGrant((MEMBERS[0], msgspec.structs.replace(MEMBERS[1], url="x" * 301))),
        Grant(b"short"),
        Refuse("x" * 301),
        Refuse("\x1b[2J"),
        Refuse("x" * MESSAGE_BYTES_MAX),
    ],
)
def test_what_no_board_would_send_is_nothing(message: object) -> None:
    assert decode(encode(message)) is None  # type: ignore[arg-type] # wrong on purpose
