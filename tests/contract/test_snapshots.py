"""Snapshots of aggregates, and folding from them."""

from __future__ import annotations

import pytest

from shoal.errors import InvalidRequest, NotFound, StreamNotFound, StreamTombstoned
from shoal.tagged import Overwrite, Sum
from shoal.types import NO_STREAM, NewEvent


async def listed(store, stream_id: str = "s") -> list[int]:
    return [snapshot.version for snapshot in await store.snapshots.list(stream_id)]


async def test_save_and_load(store):
    await store.snapshots.save("s", 5, {"name": "Alice"})
    snapshot = await store.snapshots.load("s")
    assert (snapshot.stream_id, snapshot.version, snapshot.data, snapshot.metadata) == (
        "s",
        5,
        {"name": "Alice"},
        {},
    )
    assert snapshot.epoch_us > 1_600_000_000_000_000


async def test_loading_what_is_not_there(store):
    for call in (store.snapshots.load("s"), store.snapshots.load_at("s", 1)):
        with pytest.raises(NotFound):
            await call
    assert await listed(store) == []


async def test_metadata_is_kept(store):
    await store.snapshots.save("s", 1, {}, {"by": "me"})
    assert (await store.snapshots.load("s")).metadata == {"by": "me"}


async def test_the_same_version_is_replaced(store):
    await store.snapshots.save("s", 5, {"n": 1}, {"old": True})
    await store.snapshots.save("s", 5, {"n": 2})
    snapshot = await store.snapshots.load("s")
    assert (snapshot.data, snapshot.metadata) == ({"n": 2}, {})
    assert await listed(store) == [5]


async def test_several_are_listed_in_order_and_the_highest_is_the_latest(store):
    for version in (20, 10, 9_999_999_999, 30):
        await store.snapshots.save("s", version, version)
    assert await listed(store) == [10, 20, 30, 9_999_999_999]
    assert (await store.snapshots.load("s")).version == 9_999_999_999
    assert (await store.snapshots.load_at("s", 20)).data == 20
    with pytest.raises(NotFound):
        await store.snapshots.load_at("s", 15)


async def test_deleting_one_and_all(store):
    for version in (1, 2, 3):
        await store.snapshots.save("s", version, version)
    await store.snapshots.delete_at("s", 2)
    await store.snapshots.delete_at("s", 7)
    assert await listed(store) == [1, 3]
    await store.snapshots.delete("s")
    await store.snapshots.delete("s")
    assert await listed(store) == []
    assert not await store.snapshots.exists("s")


async def test_existence(store):
    assert not await store.snapshots.exists("s")
    await store.snapshots.save("s", 5, {})
    assert await store.snapshots.exists("s")
    assert await store.snapshots.exists_at("s", 5)
    assert not await store.snapshots.exists_at("s", 4)
    await store.snapshots.delete_at("s", 5)
    assert not await store.snapshots.exists("s")


async def test_streams_do_not_share_snapshots(store):
    await store.snapshots.save("a/1", 1, "a")
    await store.snapshots.save("a", 1, "b")
    await store.snapshots.delete("a")
    assert (await store.snapshots.load("a/1")).data == "a"


@pytest.mark.parametrize(
    "data", [None, 0, "text", [1], {"a": {"b": None}}, b"\0\xff", {"raw": b"\1", "n": 1}], ids=repr
)
async def test_any_value_can_be_a_state(store, data):
    await store.snapshots.save("ünï %/?", 0, data)
    assert (await store.snapshots.load("ünï %/?")).data == data


@pytest.mark.parametrize("version", [-1, 2**53, True, "1"])
async def test_versions_out_of_range_are_refused(store, version):
    with pytest.raises(InvalidRequest):
        await store.snapshots.save("s", version, {})


@pytest.mark.parametrize("data", [float("nan"), {1: 2}, object()])
async def test_what_is_no_value_is_refused(store, data):
    with pytest.raises(InvalidRequest):
        await store.snapshots.save("s", 1, data)
    assert await listed(store) == []


async def test_events_and_snapshots_stand_side_by_side(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": 1})] * 2)
    await store.snapshots.save("s", 1, {"n": 2})
    assert await store.streams.get_version("s") == 1
    assert (await store.snapshots.load("s")).data == {"n": 2}
    assert len(await store.streams.read_all()) == 2


@pytest.mark.parametrize("hard", [False, True])
async def test_a_deleted_stream_has_no_usable_snapshots(store, hard):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": 1})] * 2)
    await store.snapshots.save("s", 1, {"n": 2})
    await store.streams.delete("s", hard=hard)
    assert await listed(store) == []
    assert not await store.snapshots.exists("s")
    assert not await store.snapshots.exists_at("s", 1)
    with pytest.raises(NotFound):
        await store.snapshots.load("s")


async def test_a_snapshot_counts_only_for_the_life_it_was_taken_in(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(1)})] * 2)
    await store.snapshots.save("s", 1, {"n": 100})
    await store.streams.delete("s")
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(5)})])
    assert await listed(store) == []
    result = await store.aggregate("s")
    assert (result.version, result.state) == (2, {"n": 5})
    await store.snapshots.save("s", 2, {"n": 5})
    assert await listed(store) == [2]


async def test_a_version_that_was_deleted_has_no_snapshot(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(1)})] * 3)
    await store.streams.delete("s")
    for version in (2, 3):
        with pytest.raises(StreamNotFound):
            await store.snapshots.save("s", version, {"n": 100})
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(5)})] * 2)
    for version in (0, 2):
        with pytest.raises(InvalidRequest):
            await store.snapshots.save("s", version, {"n": 100})
    assert await listed(store) == []
    assert (await store.aggregate("s")).state == {"n": 10}
    await store.snapshots.save("s", 3, {"n": 100})
    assert (await store.aggregate("s")).state == {"n": 105}


async def test_a_state_from_before_its_events_is_kept_and_never_folded_on_from(store):
    await store.snapshots.save("s", 1, {"n": 100})
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(1)})] * 3)
    assert (await store.snapshots.load("s")).data == {"n": 100}
    assert (await store.aggregate("s")).state == {"n": 3}
    await store.snapshots.save("s", 0, {"n": 50})
    assert (await store.aggregate("s")).state == {"n": 52}
    await store.snapshots.save("s", 4, {"n": 1_000})
    assert (await store.aggregate("s")).state == {"n": 52}
    await store.streams.append("s", 2, [NewEvent("e", {"n": Sum(1)})] * 3)
    assert (await store.aggregate("s")).state == {"n": 55}
    await store.snapshots.save("s", 4, {"n": 2_000})
    assert (await store.aggregate("s")).state == {"n": 2_001}
    assert (await store.aggregate("s", at=3)).state == {"n": 53}


# -- folding -----------------------------------------------------------------------------------------


async def test_folding_sums_and_overwrites(store):
    events = [
        {"n": Sum(1), "name": "John"},
        {"n": Sum(5), "city": "NY"},
        {"n": Sum(-2), "city": Overwrite("LA")},
    ]
    await store.streams.append("s", NO_STREAM, [NewEvent("e", data) for data in events])
    result = await store.aggregate("s")
    assert (result.version, result.state) == (2, {"n": 4, "name": "John", "city": "LA"})


async def test_folding_from_the_latest_snapshot(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"balance": Sum(1_000)})] * 3)
    await store.snapshots.save("s", 2, {"name": "Bob", "balance": 500})
    await store.streams.append(
        "s",
        2,
        [NewEvent("e", {"balance": Sum(100)}), NewEvent("e", {"balance": Sum(-50), "status": "active"})],
    )
    result = await store.aggregate("s")
    assert (result.version, result.state) == (4, {"name": "Bob", "balance": 550, "status": "active"})


async def test_folding_up_to_a_version(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(1)})] * 5)
    await store.snapshots.save("s", 3, {"n": 1_000})
    early, late = await store.aggregate("s", at=1), await store.aggregate("s", at=4)
    assert (early.version, early.state) == (1, {"n": 2})
    assert (late.version, late.state) == (4, {"n": 1_001})


async def test_unfinished_states_keep_their_tags(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {"n": Sum(2), "plain": 1})] * 2)
    result = await store.aggregate("s", finalize=False)
    assert result.state == {"n": Sum(4), "plain": 1}


async def test_folding_from_the_right_lets_the_oldest_win(store):
    await store.streams.append(
        "s", NO_STREAM, [NewEvent("e", {"b": 1, "n": Sum(1)}), NewEvent("e", {"b": 2, "n": Sum(2)})]
    )
    assert (await store.aggregate("s", fold="right")).state == {"b": 1, "n": 3}
    assert (await store.aggregate("s", fold="left")).state == {"b": 2, "n": 3}


async def test_folding_a_long_stream(store):
    for start in range(0, 2_500, 500):
        await store.streams.append("s", start - 1, [NewEvent("e", {"n": Sum(1)})] * 500)
    result = await store.aggregate("s")
    assert (result.version, result.state) == (2_499, {"n": 2_500})


async def test_folding_what_is_not_there(store):
    with pytest.raises(StreamNotFound):
        await store.aggregate("s")
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {})])
    await store.streams.delete("s")
    with pytest.raises(StreamNotFound):
        await store.aggregate("s")


async def test_folding_what_was_deleted_for_ever(store):
    await store.streams.append("s", NO_STREAM, [NewEvent("e", {})])
    await store.streams.delete("s", hard=True)
    for fold in ("left", "right"):
        with pytest.raises(StreamTombstoned):
            await store.aggregate("s", fold=fold)
