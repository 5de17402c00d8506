"""A killed node decides everything again as it had decided: the same entries give the same answers, on every path."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from node_kit import commit, events, everything, image, inline_means, opened, run, settle, small, submit

from shoal.errors import ConditionFailed, ShoalError
from shoal.model.commands import (
    ChangeSubscription,
    CreateSubscription,
    Definition,
    DeleteSubscription,
    Parked,
    ReplayParked,
    ResetSubscription,
    Settle,
)
from shoal.testing.clock import FakeClock
from shoal.types import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Condition,
    EventFilter,
    NewEvent,
    Query,
    QueryItem,
    StreamWrite,
    SubscriptionOptions,
)

STREAMS = ("a", "b", "c", "$s")
TYPES = ("x", "y")
TAGS = ("s", "t")


@pytest.fixture(autouse=True)
def blocking_is_fine(nothing_blocks_the_loop):
    """These nodes run in one thread, so that an example is the same each time."""
    nothing_blocks_the_loop.deactivate()
    yield
    nothing_blocks_the_loop.activate()


new_events = st.builds(
    NewEvent,
    event_type=st.sampled_from(TYPES),
    data=st.integers(0, 2),
    tags=st.none() | st.lists(st.sampled_from(TAGS), max_size=2),
    event_id=st.none() | st.sampled_from([f"id-{n}" for n in range(6)]),
)
batches = st.lists(new_events, max_size=3, unique_by=lambda event: event.event_id or object())
queries = st.lists(
    st.builds(
        QueryItem,
        st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
        st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=2,
).map(lambda items: Query(tuple(items)))
conditions = st.none() | st.builds(Condition, queries, st.integers(0, 12))
versions = st.sampled_from([ANY_VERSION] * 4 + [NO_STREAM, STREAM_EXISTS, 0, 1, 2])
appends = st.tuples(
    st.just("append"),
    st.lists(
        st.builds(StreamWrite, st.sampled_from(STREAMS), versions, batches),
        min_size=1,
        max_size=2,
        unique_by=lambda write: write.stream_id,
    ),
    conditions,
)
deletes = st.tuples(
    st.just("delete"), st.sampled_from(STREAMS), st.integers(0, 4).map(lambda n: n == 4), versions
)
saves = st.tuples(st.just("save"), st.sampled_from(STREAMS), st.integers(0, 3))
forgets = st.tuples(st.just("forget"), st.sampled_from(STREAMS))
names = st.sampled_from(["m", "n"])
positions = st.lists(st.integers(0, 12), max_size=3)
starts = st.sampled_from(["beginning", "end", 3])
subscribes = st.one_of(
    st.builds(
        CreateSubscription,
        st.just("main"),
        names,
        st.builds(Definition, st.just("all"), st.just(b"{}"), starts),
        st.builds(SubscriptionOptions, max_retries=st.integers(0, 3)),
        st.lists(st.sampled_from(["start_from", "max_retries"]), unique=True),
    ),
    st.builds(
        ChangeSubscription,
        st.just("main"),
        names,
        st.just(SubscriptionOptions(ordered=True)),
        st.sampled_from([[], ["ordered"]]),
    ),
    st.builds(DeleteSubscription, st.just("main"), names, st.sampled_from([None, "all", "stream"])),
    st.builds(ResetSubscription, st.just("main"), names, starts),
)
parks = st.builds(
    Parked,
    st.integers(0, 12),
    st.sampled_from(STREAMS),
    st.text(max_size=3),
    st.integers(1, 5),
    st.booleans(),
)
settles = st.builds(
    Settle,
    st.just("main"),
    names,
    st.just(0),
    st.integers(0, 12),
    positions,
    st.lists(parks, max_size=4),
    positions,
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=3),
)
replays = st.builds(ReplayParked, st.just("main"), names, st.just(0), positions)
commands = st.one_of(
    appends, appends, appends, deletes, saves, forgets, subscribes, settles, settles, replays
)
turns = st.lists(
    st.lists(commands, min_size=1, max_size=5) | st.sampled_from(["commit", "settle"]),
    min_size=1,
    max_size=12,
)


async def do(store: Any, command: Any) -> Any:
    match command:
        case ("append", writes, condition):
            return await store.streams.append_many(writes, condition)
        case ("delete", stream_id, hard, expected):
            return await store.streams.delete(stream_id, hard=hard, expected_version=expected)
        case ("save", stream_id, version):
            return await store.snapshots.save(stream_id, version, {"v": version})
        case ("forget", stream_id):
            return await store.snapshots.delete(stream_id)
        case Settle() | ReplayParked():
            return await submit(store, as_asked_now(store, command))
        case _:
            return await submit(store, command)


def as_asked_now(store: Any, command: Any) -> Any:
    """Of the subscription's present life, and only about events that are there."""
    known = store._context.memory.subscriptions.get(command.name)
    command = structs.replace(command, life=known.life if known else 0)
    if isinstance(command, Settle):
        there = [position for position in command.settled if position <= store.head]
        command = structs.replace(command, settled=there)
    return command


async def play(node: Any, script: Any, clock: FakeClock) -> list[Any]:
    """Each inner list is asked in one turn of the loop, so that its commands share an entry."""
    answers = []
    for turn in script:
        if turn == "commit":
            await commit(node)
        elif turn == "settle":
            await settle(node)
        else:
            store = node.store("main")
            answers += await asyncio.gather(*(do(store, each) for each in turn), return_exceptions=True)
            unexpected = [a for a in answers if isinstance(a, Exception) and not isinstance(a, ShoalError)]
            assert unexpected == []
        clock.advance(3)
    return answers


@settings(max_examples=60)
@given(turns, st.sampled_from([2, 100_000]))
def test_a_killed_node_comes_to_the_same_decisions(tmp_path_factory, script, commit_rows):
    """Conflicts, duplicates, conditions and deletes included; whatever had been committed to SQLite by then."""

    async def main() -> None:
        root = tmp_path_factory.mktemp("replay")
        clock = FakeClock()
        config = small(root / "live", commit_rows=commit_rows)
        async with opened(config, inline_means(clock=clock)) as node:
            await play(node, script, clock)
            await settle(node)
            killed = image(root / "live", root / "killed")
            live = await everything(node)
            verified = await node.verify()
        assert verified.problems == []
        async with opened(small(killed), inline_means(clock=clock)) as again:
            assert await everything(again) == live
            assert (await again.verify()).problems == []
        async with opened(small(root / "live"), inline_means(clock=clock)) as closed:
            assert await everything(closed) == live

    run(main())


def test_a_condition_beside_a_delete_of_what_it_matches(tmp_path):
    """Both in one turn: the answer is that of their order in the log, live and replayed."""

    async def main() -> None:
        async with opened(small(tmp_path / "live"), inline_means()) as node:
            store = node.store("main")
            await store.streams.append("s", ANY_VERSION, events(1, "hit"))
            await store.streams.append("u", ANY_VERSION, events(1, "later"))
            await commit(node)
            condition = Condition(Query((QueryItem(("hit",)),)))
            both = Condition(Query((QueryItem(("hit", "later")),)))
            _, accepted, refused, _ = await asyncio.gather(
                store.streams.delete("s"),
                store.streams.append_many([StreamWrite("t", NO_STREAM, events(1))], condition),
                store.streams.append_many([StreamWrite("t", ANY_VERSION, events(1))], both),
                store.streams.append("v", ANY_VERSION, events(2)),
                return_exceptions=True,
            )
            live = await everything(node)
            killed = image(tmp_path / "live", tmp_path / "killed")
        async with opened(small(killed), inline_means()) as again:
            assert await everything(again) == live
        assert accepted.results[0] == 0
        assert isinstance(refused, ConditionFailed)
        assert refused.position == 2

    run(main())


# --------------------------------------------------------------------------- the tail and SQLite as one


selections = st.builds(
    EventFilter,
    types=st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
    tags_match=st.sampled_from(["any", "all"]),
    stream_pattern=st.none() | st.sampled_from(["*", "?", "a*", "[ab]", "$*"]),
    query=st.none() | queries,
    system=st.booleans(),
)


async def all_reads(node: Any, draws: list[tuple[EventFilter, int | None, int]]) -> list[Any]:
    """Every reading call, with what it answers or refuses."""
    store = node.store("main")
    streams = store.streams
    asked = [
        *(
            streams.read_events(f, after, count, d)
            for f, after, count in draws
            for d in ("forward", "backward")
        ),
        *(
            streams.read_page(stream, after, count, d)
            for stream in STREAMS
            for _, after, count in draws
            for d in ("forward", "backward")
        ),
        *(streams.get_version(stream) for stream in STREAMS),
        *(store.snapshots.list(stream) for stream in STREAMS),
        *(streams.find_event(f"id-{n}") for n in range(6)),
        streams.list_page("", None, None, 2),
        *(
            streams.list_page("", pattern, "a", n, system=True)
            for pattern in ("?", "[ab]", "*c")
            for n in (1, 10)
        ),
        *(streams.list_page(prefix, None, after, 2) for prefix in ("a", "b") for after in (None, "a")),
    ]
    found = await asyncio.gather(*asked, return_exceptions=True)
    return [(type(each), str(each)) if isinstance(each, Exception) else each for each in found]


@settings(max_examples=60)
@given(turns, st.lists(st.tuples(selections, st.none() | st.integers(0, 20), st.integers(1, 4)), max_size=4))
def test_every_read_answers_the_same_wherever_the_last_commit_was(tmp_path_factory, script, draws):
    """Once from the tail alone, once with commits in between, once from SQLite alone."""

    async def main() -> None:
        answers = []
        for how in ("tail", "as drawn", "database"):
            clock = FakeClock()
            config = small(tmp_path_factory.mktemp("reads"))
            steps = script if how == "as drawn" else [turn for turn in script if not isinstance(turn, str)]
            async with opened(config, inline_means(clock=clock)) as node:
                for turn in steps:
                    await play(node, [turn], FakeClock())
                if how == "database":
                    await commit(node)
                    assert not node.sequencer.stores["main"]._rows
                answers.append(_timeless(await all_reads(node, draws)))
        assert answers[0] == answers[1] == answers[2]

    run(main())


def _timeless(answers: list[Any]) -> str:
    """Ids made by the store differ from run to run."""
    return "\n".join(
        repr([(e.stream_id, e.version, e.position, e.data_raw, e.tags_raw) for e in a.events] + [a.next])
        if hasattr(a, "events")
        else repr(a)
        for a in answers
    )


def test_pages_followed_by_next_give_each_event_once(tmp_path):
    """Whatever the page size, over SQLite and tail, forward and backward, with removed events in between."""

    async def main() -> None:
        async with opened(small(tmp_path), inline_means()) as node:
            store = node.store("main")
            rng = random.Random(1)
            for turn in range(30):
                stream = rng.choice("abcdef")
                kind, tags = rng.choice(TYPES), rng.choice([None, ["s"], ["s", "t"]])
                await store.streams.append(stream, ANY_VERSION, events(rng.randint(1, 3), kind, tags=tags))
                if turn in {5, 17}:
                    await store.streams.delete(stream)
                if turn in {8, 15, 22}:
                    await commit(node)
            for selection in (
                EventFilter(),
                EventFilter(types=("x",)),
                EventFilter(tags=("s", "t")),
                EventFilter(types=("x",), tags=("t",)),
                EventFilter(query=Query((QueryItem(("y",)), QueryItem((), ("t",))))),
                EventFilter(stream_pattern="[a-f]"),
                EventFilter(stream_pattern="?"),
            ):
                whole = (await store.streams.read_events(selection, None, 1_000)).events
                for count in (1, 2, 3, 7):
                    for direction in ("forward", "backward"):
                        found, after = [], None
                        while True:
                            page = await store.streams.read_events(selection, after, count, direction)
                            found += page.events
                            done = page.next >= page.head if direction == "forward" else page.next <= 1
                            if done:
                                break
                            assert after is None or page.next != after
                            after = page.next
                        assert found == (whole if direction == "forward" else whole[::-1])

    run(main())
