"""Making, finding, changing and deleting subscriptions."""

from __future__ import annotations

import asyncio

import pytest
from consumer_kit import LONG_MS, append, known, nothing, positions, pull

from shoal.errors import AlreadyExists, InvalidRequest, NotFound
from shoal.types import SubscriptionOptions


async def test_what_was_made_is_there(store):
    made = await store.subscriptions.create(
        "tags", {"all": ["a", "b"]}, "sub", ordered=True, backoff_ms=[1, 2], pool_size=3
    )
    assert (made.name, made.type, made.selector) == ("sub", "tags", {"all": ["a", "b"]})
    assert (made.start_from, made.checkpoint) == ("beginning", 0)
    assert made.options == SubscriptionOptions(ordered=True, backoff_ms=(1, 2), pool_size=3)
    assert made.created_us > 1_600_000_000_000_000
    assert await store.subscriptions.get("sub") == made
    assert await store.subscriptions.list() == [made]


async def test_names_of_any_kind(store):
    for name in ("a/b", "ünï %?#", "$own", "stats"):
        await store.subscriptions.create("all", None, name)
        assert (await store.subscriptions.get(name)).name == name
    names = [found.name for found in await store.subscriptions.list()]
    assert names == sorted(["a/b", "ünï %?#", "$own", "stats"], key=str.encode)


async def test_the_same_again_is_found(store):
    made = await store.subscriptions.create("stream", "s", "sub", start_from="end", max_retries=3)
    again = store.subscriptions.create
    assert await again("stream", "s", "sub", start_from="end", max_retries=3) == made
    assert await again("stream", "s", "sub") == made


@pytest.mark.parametrize(
    ("definition", "given"),
    [
        (("stream", "other"), {}),
        (("event_type", "s"), {}),
        (("stream", "s"), {"start_from": "beginning"}),
        (("stream", "s"), {"max_retries": 4}),
    ],
)
async def test_another_definition_is_refused(store, definition, given):
    made = await store.subscriptions.create("stream", "s", "sub", start_from="end", max_retries=3)
    with pytest.raises(AlreadyExists):
        await store.subscriptions.create(*definition, "sub", **given)
    with pytest.raises(AlreadyExists):
        async with store.subscriptions.subscribe(*definition, "sub", **given):
            pass
    assert await store.subscriptions.get("sub") == made


async def test_names_and_types_together_are_a_key(store):
    made = await store.subscriptions.create("stream", "s", "sub")
    assert await store.subscriptions.get("stream", "sub") == made
    assert await store.subscriptions.exists("sub")
    assert await store.subscriptions.exists("stream", "sub")
    assert not await store.subscriptions.exists("all", "sub")
    with pytest.raises(NotFound):
        await store.subscriptions.get("all", "sub")
    with pytest.raises(NotFound):
        await store.subscriptions.unsubscribe("all", "sub")
    assert await store.subscriptions.exists("sub")
    await store.subscriptions.unsubscribe("stream", "sub")
    assert not await store.subscriptions.exists("sub")


async def test_what_is_not_there(store):
    subscriptions = store.subscriptions
    assert not await subscriptions.exists("sub")
    assert await subscriptions.list() == []
    for call in (
        subscriptions.get("sub"),
        subscriptions.unsubscribe("sub"),
        subscriptions.update("sub", ordered=True),
        subscriptions.pull("sub"),
        subscriptions.ack("s", "sub", 0),
        subscriptions.ack_through("sub", 1),
        subscriptions.parked("sub"),
        subscriptions.replay_parked("sub"),
        subscriptions.reset("sub", "end"),
        subscriptions.stats("sub"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_options_are_changed_and_the_others_stay(store):
    await store.subscriptions.create("all", None, "sub", max_retries=3)
    changed = await store.subscriptions.update("sub", ack_timeout_ms=60_000, backoff_ms=[])
    assert changed.options == SubscriptionOptions(max_retries=3, ack_timeout_ms=60_000, backoff_ms=())
    assert await store.subscriptions.get("sub") == changed


async def test_a_changed_option_holds_at_once(store):
    await append(store, 1, 2, 3)
    await store.subscriptions.create("all", None, "sub", max_in_flight=1)
    assert positions(await pull(store, 1)) == [1]
    assert await nothing(store)
    await store.subscriptions.update("sub", max_in_flight=3)
    assert positions(await pull(store, 2)) == [2, 3]


@pytest.mark.parametrize(
    ("type_", "selector"),
    [
        ("nonsense", None),
        ("all", "s"),
        ("stream", None),
        ("stream", ""),
        ("stream", ["s"]),
        ("event_type", 7),
        ("event_type", []),
        ("event_pattern", None),
        ("event_payload", "text"),
        ("event_payload", {"n": {"$near": 1}}),
        ("event_payload", {"n": {"$in": 1}}),
        ("tags", []),
        ("tags", {"all": []}),
        ("tags", {"most": ["a"]}),
    ],
)
async def test_what_is_no_selector_is_refused(store, type_, selector):
    with pytest.raises(InvalidRequest):
        await store.subscriptions.create(type_, selector, "sub")
    assert not await store.subscriptions.exists("sub")


@pytest.mark.parametrize(
    "given",
    [
        {"start_from": 1},  # beyond the head
        {"start_from": -1},
        {"start_from": "middle"},
        {"ack_timeout_ms": 0},
        {"max_in_flight": 0},
        {"max_retries": -1},
        {"backoff_ms": 5},
        {"backoff_ms": [-1]},
        {"strategy": "fair"},
        {"ordered": "yes"},
        {"ack_durability": "sometimes"},
        {"pool_size": 0},
        {"unheard_of": 1},
    ],
    ids=str,
)
async def test_what_is_no_option_is_refused(store, given):
    with pytest.raises(InvalidRequest):
        await store.subscriptions.create("all", None, "sub", **given)
    assert not await store.subscriptions.exists("sub")


@pytest.mark.parametrize("given", [{"ack_timeout_ms": 0}, {"strategy": "fair"}, {"unheard_of": 1}], ids=str)
async def test_a_change_to_what_is_no_option_is_refused(store, given):
    made = await store.subscriptions.create("all", None, "sub")
    with pytest.raises(InvalidRequest):
        await store.subscriptions.update("sub", **given)
    assert await store.subscriptions.get("sub") == made


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "x" * 129, 7])
async def test_what_is_no_name_is_refused(store, name):
    with pytest.raises(InvalidRequest):
        await store.subscriptions.create("all", None, name)


async def test_deleting_ends_the_pulls_that_wait(store):
    await store.subscriptions.create("all", None, "sub")
    waiting = asyncio.create_task(store.subscriptions.pull("sub", 1, LONG_MS, "me"))
    await known(store, "me")
    await store.subscriptions.unsubscribe("sub")
    async with asyncio.timeout(LONG_MS / 2_000):
        with pytest.raises(NotFound):
            await waiting


async def test_one_made_again_begins_anew(store):
    await append(store, 1)
    await store.subscriptions.create("all", None, "sub")
    await store.subscriptions.ack_through("sub", (await pull(store, 1))[0].position)
    await store.subscriptions.unsubscribe("sub")
    await store.subscriptions.create("event_type", "e", "sub")
    assert positions(await pull(store, 1)) == [1]
