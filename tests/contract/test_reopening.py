"""What was acknowledged is there when the store is opened again (embedded; the HTTP server opens the same)."""

from __future__ import annotations

import pytest

import shoal
from shoal.errors import DataDirLocked, ShuttingDown, StreamTombstoned, WrongExpectedVersion
from shoal.types import ANY_VERSION, NO_STREAM, NewEvent


async def test_everything_is_there_again(tmp_path):
    async with shoal.open(data_dir=tmp_path) as store:
        await store.streams.append(
            "s", NO_STREAM, [NewEvent("e", n, {"m": n}, ["t"], f"id-{n}") for n in range(5)]
        )
        await store.streams.append("soft", NO_STREAM, [NewEvent("e", 1)] * 2)
        await store.streams.append("hard", NO_STREAM, [NewEvent("e", 1)])
        await store.streams.delete("soft")
        await store.streams.delete("hard", hard=True)
        await store.snapshots.save("s", 3, {"n": 3})
        before = await store.streams.read_all()
    async with shoal.open(data_dir=tmp_path) as store:
        assert await store.streams.read_all() == before
        assert await store.streams.get_version("s") == 4
        assert await store.streams.list_streams() == ["s"]
        assert (await store.snapshots.load("s")).data == {"n": 3}
        assert (
            await store.streams.append("s", NO_STREAM, [NewEvent("e", 0, {"m": 0}, ["t"], "id-0")])
        ).duplicate
        with pytest.raises(WrongExpectedVersion):
            await store.streams.append("s", NO_STREAM, [NewEvent("e", 9)])
        with pytest.raises(StreamTombstoned):
            await store.streams.append("hard", ANY_VERSION, [NewEvent("e", 9)])
        again = await store.streams.append("soft", NO_STREAM, [NewEvent("e", 9)])
        assert (again, again.position) == (2, 9)


async def test_times_go_on_from_where_they_were(tmp_path):
    times = []
    for _ in range(3):
        async with shoal.open(data_dir=tmp_path) as store:
            await store.streams.append("s", ANY_VERSION, [NewEvent("e", 1)])
            times = [event.epoch_us for event in await store.streams.read("s")]
    assert times == sorted(times)
    assert len(times) == 3


async def test_stores_of_other_names_are_other_stores(tmp_path):
    async with shoal.open("one", data_dir=tmp_path) as store:
        assert store.name == "one"
        await store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
    async with shoal.open("two", data_dir=tmp_path) as store:
        assert await store.streams.list_streams() == []
    async with shoal.open("one", data_dir=tmp_path) as store:
        assert await store.streams.list_streams() == ["s"]


async def test_a_data_directory_serves_one_at_a_time(tmp_path):
    async with shoal.open(data_dir=tmp_path):
        with pytest.raises(DataDirLocked):
            async with shoal.open(data_dir=tmp_path):
                pass
    async with shoal.open(data_dir=tmp_path):
        pass


async def test_a_closed_store_says_so(tmp_path):
    async with shoal.open(data_dir=tmp_path) as store:
        pass
    with pytest.raises(ShuttingDown):
        await store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
