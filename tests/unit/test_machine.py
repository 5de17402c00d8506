"""The state machine: each rule of decisions.md for appends, duplicates, conditions, deletes and snapshots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import (
    ConditionFailed,
    EventIdReused,
    InvalidRequest,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from shoal.model.commands import Append, DeleteSnapshots, DeleteStream, ProposedEvent, SaveSnapshot, Write
from shoal.model.machine import (
    Head,
    RowsAppended,
    SnapshotSaved,
    StoredId,
    StoreState,
    StreamDeleted,
    decide,
    digest_of,
    digest_of_row,
)
from shoal.types import ANY_VERSION, NO_STREAM, STREAM_EXISTS, Condition, Query, QueryItem


class World:
    """A store of plain dicts that is a View of itself."""

    def __init__(self) -> None:
        self.state = StoreState()
        self.heads: dict[str, Head] = {}
        self.rows: list = []
        self.asked: list[str] = []

    def head(self, stream_id):
        return self.heads.get(stream_id)

    def stored_id(self, stream_id, event_id):
        self.asked.append("id")
        for row in self.rows:
            if (row[0], row[3]) == (stream_id, event_id):
                return StoredId(row[1], row[2], digest_of_row(row))
        return None

    def first_match(self, query, after):
        self.asked.append("condition")
        for row in self.rows:
            head = self.heads[row[0]]
            hidden = head.tombstoned or row[1] < head.visible_from
            if row[2] > after and not hidden and any(row[4] in item.types for item in query.items):
                return row[2]
        return None

    def do(self, command, clock_us=1_000):
        decision = decide(self.state, self, command, clock_us, clock_us)
        match decision.change:
            case RowsAppended(rows=rows, heads=heads):
                self.rows += rows
                self.heads.update(heads)
            case StreamDeleted(stream_id=stream_id, head=head):
                self.heads[stream_id] = head
        return decision

    def append(self, stream_id, expected, *events, condition=None, clock_us=1_000):
        command = Append("main", [Write(stream_id, expected, list(events))], condition)
        return self.do(command, clock_us).result

    def delete(self, stream_id, *, hard=False, expected=ANY_VERSION):
        return self.do(DeleteStream("main", stream_id, expected, hard))


numbers = iter(range(10**9))


def event(event_id: str | None = None, data: bytes = b"1", kind: str = "e", **more) -> ProposedEvent:
    own = event_id is not None
    return ProposedEvent(event_id if own else f"made-{next(numbers)}", own, kind, data, **more)


@pytest.fixture
def world() -> World:
    """`s` is at version 1, `soft` was deleted at 0, `hard` for ever."""
    made = World()
    made.append("s", ANY_VERSION, event("one"), event("two"))
    made.append("soft", ANY_VERSION, event("soft-one"))
    made.delete("soft")
    made.append("hard", ANY_VERSION, event("hard-one"))
    made.delete("hard", hard=True)
    return made


@pytest.mark.parametrize(
    ("stream", "expected", "actual"),
    [
        ("s", NO_STREAM, 1), ("s", 0, 1), ("s", 2, 1),
        ("new", 0, -1), ("new", 5, -1), ("new", STREAM_EXISTS, -1),
        ("soft", 0, -1), ("soft", STREAM_EXISTS, -1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [0, 1])
def test_a_wrong_expected_version_is_a_conflict_even_of_an_empty_batch(
    world, stream, expected, actual, count
):
    before = (world.state.position, len(world.rows))
    with pytest.raises(WrongExpectedVersion) as caught:
        world.append(stream, expected, *[event()] * count)
    assert (caught.value.expected, caught.value.actual) == (expected, actual)
    assert (world.state.position, len(world.rows)) == before


@pytest.mark.parametrize(
    ("stream", "expected", "first"),
    [
        ("s", 1, 2), ("s", ANY_VERSION, 2), ("s", STREAM_EXISTS, 2),
        ("new", NO_STREAM, 0), ("new", ANY_VERSION, 0),
        ("soft", NO_STREAM, 1), ("soft", ANY_VERSION, 1),
    ],
)  # fmt: skip
def test_a_right_one_is_appended_and_numbering_goes_on(world, stream, expected, first):
    result = world.append(stream, expected, event(), event())
    (answer,) = result.results
    assert (answer.first_version, answer.version, answer.position) == (first, first + 1, 6)
    assert [row[1] for row in world.rows[-2:]] == [first, first + 1]


@pytest.mark.parametrize("expected", [ANY_VERSION, NO_STREAM, STREAM_EXISTS, 0])
def test_a_tombstoned_stream_takes_nothing(world, expected):
    with pytest.raises(StreamTombstoned):
        world.append("hard", expected, event())
    with pytest.raises(StreamTombstoned):
        world.append("hard", expected, event("hard-one"))
    with pytest.raises(StreamTombstoned):
        world.do(SaveSnapshot("main", "hard", 0, b"1"))


def test_an_empty_batch_returns_the_version_and_makes_nothing(world):
    (answer,) = world.append("s", 1).results
    assert (answer.version, answer.first_version, answer.duplicate) == (1, 2, False)
    assert world.append("new", NO_STREAM).results == [-1]
    assert "new" not in world.heads


# --------------------------------------------------------------------------------- duplicates


def test_a_duplicate_is_the_first_answer_again_before_version_and_condition(world):
    world.append("s", ANY_VERSION, event(kind="x"))
    refusing = Condition(Query((QueryItem(("e", "x")),)))
    world.asked.clear()
    result = world.append("s", 99, event("one"), event("two"), condition=refusing)
    (answer,) = result.results
    assert (answer.first_version, answer.version, answer.position, answer.duplicate) == (0, 1, 2, True)
    assert result.duplicate
    assert "condition" not in world.asked
    assert len(world.rows) == 5


@pytest.mark.parametrize(
    "events",
    [
        [event("one"), event("new")],
        [event("new"), event("one")],
        [event("two"), event("one")],
        [event("one", b"2")],
        [event("one"), event()],
        [event(), event("one")],
        [event("one", kind="other")],
        [event("one", content_type="text/plain")],
        [event("one", metadata=b'{"a":1}')],
        [event("one", tags=["t"])],
    ],
)
def test_part_of_a_batch_or_other_content_or_order_is_refused(world, events):
    rows = len(world.rows)
    with pytest.raises(EventIdReused) as caught:
        world.append("s", ANY_VERSION, *events)
    assert caught.value.stream_id == "s"
    assert len(world.rows) == rows


def test_ids_with_a_gap_between_them_are_refused(world):
    world.append("s", ANY_VERSION, event("three"))
    with pytest.raises(EventIdReused):
        world.append("s", ANY_VERSION, event("one"), event("three"))


def test_an_id_belongs_to_its_stream(world):
    assert world.append("other", NO_STREAM, event("one")).results == [0]


def test_an_id_outlives_a_soft_delete(world):
    assert world.append("soft", NO_STREAM, event("soft-one")).duplicate
    with pytest.raises(EventIdReused):
        world.append("soft", NO_STREAM, event("soft-one", b"2"))


def test_several_streams_are_a_duplicate_all_or_not_at_all(world):
    both = [Write("s", 0, [event("one")]), Write("soft", 9, [event("soft-one")])]
    result = world.do(Append("main", both)).result
    assert [(r.stream_id, int(r), r.duplicate) for r in result.results] == [("s", 0, True), ("soft", 0, True)]
    assert result.position == 3
    with pytest.raises(EventIdReused):
        world.do(Append("main", [both[0], Write("new", ANY_VERSION, [event("fresh")])]))
    with pytest.raises(EventIdReused):
        world.do(Append("main", [Write("new", ANY_VERSION, [event()]), both[0]]))


def test_a_duplicate_answers_for_each_write_also_for_empty_ones(world):
    writes = [Write("new", ANY_VERSION, []), Write("s", 0, [event("one")]), Write("soft", ANY_VERSION, [])]
    results = world.do(Append("main", writes)).result.results
    assert [(r.stream_id, int(r), r.first_version, r.duplicate) for r in results] == [
        ("new", -1, 0, False), ("s", 0, 0, True), ("soft", -1, 0, False),
    ]  # fmt: skip


def test_content_is_equal_however_it_was_written():
    assert digest_of(event("x", b'{"a":1,"b":2}')) == digest_of(event("x", b'{"b":2.0,"a":1}'))
    assert digest_of(event("x", b'{"a":1}')) != digest_of(event("x", b'{"a":2}'))


# --------------------------------------------------------------------------------- conditions


def test_a_condition_holds_or_names_the_first_match(world):
    condition = Condition(Query((QueryItem(("e",)),)))
    with pytest.raises(ConditionFailed) as caught:
        world.append("new", NO_STREAM, event(), condition=condition)
    assert caught.value.position == 1
    assert world.append("new", NO_STREAM, event(), condition=Condition(condition.query, 2)).results == [0]
    with pytest.raises(ConditionFailed):
        world.append("new", 0, event(), condition=Condition(condition.query, 4))


def test_the_version_is_checked_before_the_condition(world):
    with pytest.raises(WrongExpectedVersion):
        world.append("s", 0, event(), condition=Condition(Query((QueryItem(("e",)),))))


# --------------------------------------------------------------------------------- deletes and snapshots


def test_deletes(world):
    assert world.delete("missing").change is None
    assert world.delete("soft").change is None
    assert world.delete("hard").change is None
    assert world.delete("hard", hard=True).change is None
    assert world.delete("s").change.head == Head(1, 2)
    assert world.delete("s", hard=True).change.head == Head(1, 2, tombstoned=True)
    assert world.delete("never", hard=True).change.head == Head(-1, 0, tombstoned=True)
    with pytest.raises(StreamTombstoned):
        world.append("never", NO_STREAM, event())


def test_a_delete_may_expect_a_version(world):
    with pytest.raises(WrongExpectedVersion):
        world.delete("s", expected=0)
    with pytest.raises(WrongExpectedVersion):
        world.delete("missing", expected=STREAM_EXISTS)
    assert world.delete("s", expected=1).change is not None


def test_a_deleted_stream_opens_again_with_its_old_events_hidden(world):
    world.append("soft", NO_STREAM, event())
    assert world.heads["soft"] == Head(1, 1)
    assert world.heads["soft"].actual == 1


def test_snapshots_get_a_time_and_are_deleted_one_or_all(world):
    world.state.epoch_us = 5_000
    saved = world.do(SaveSnapshot("main", "s", 3, b"1")).change
    assert isinstance(saved, SnapshotSaved)
    assert saved.epoch_us == 5_000
    assert world.do(DeleteSnapshots("main", "s", 3)).change.version == 3
    assert world.do(DeleteSnapshots("main", "s")).change.version is None


def test_events_are_later_than_all_snapshots_saved_before_them(world):
    """Whatever the clock does: by that a snapshot is known that was saved before the event of its version."""
    saved = world.do(SaveSnapshot("main", "new", 0, b"1"), clock_us=9_000).change
    world.append("new", NO_STREAM, event(), clock_us=9_000)
    world.append("new", 0, event(), clock_us=10)
    assert saved.epoch_us == 9_000
    assert [row[5] for row in world.rows[-2:]] == [9_001, 9_002]
    after = world.do(SaveSnapshot("main", "new", 1, b"1"), clock_us=10).change
    assert after.epoch_us == 9_002


def test_a_snapshot_of_a_version_that_was_deleted_is_refused(world):
    world.append("new", NO_STREAM, event(), event())
    world.delete("new")
    with pytest.raises(StreamNotFound):
        world.do(SaveSnapshot("main", "new", 2, b"1"))
    world.append("new", NO_STREAM, event())
    with pytest.raises(InvalidRequest, match="begins at 2"):
        world.do(SaveSnapshot("main", "new", 1, b"1"))
    assert isinstance(world.do(SaveSnapshot("main", "new", 2, b"1")).change, SnapshotSaved)


# --------------------------------------------------------------------------------- time and order


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_event_time_always_grows_and_positions_have_no_gap(clocks):
    world = World()
    for clock_us in clocks:
        world.append("s", ANY_VERSION, event(), event(), clock_us=clock_us)
    times = [row[5] for row in world.rows]
    assert times == sorted(times)
    assert len(set(times)) == len(clocks)  # one time per append
    assert [row[2] for row in world.rows] == list(range(1, len(times) + 1))
    assert [row[1] for row in world.rows] == list(range(len(times)))
    assert times[0] == max(clocks[0], 1)
