"""Listing streams: order, prefix, pattern, pages."""

from __future__ import annotations

import pytest
import pytest_asyncio

from shoal.errors import InvalidRequest
from shoal.types import NO_STREAM, NewEvent

NAMES = ["a", "a/1", "a/10", "a/2", "b?x", "z", "Ä", "é", "日本", "😀"]
IN_ORDER = sorted(NAMES, key=str.encode)


@pytest_asyncio.fixture(loop_scope="session")
async def many(store):
    for name in reversed(NAMES):
        await store.streams.append(name, NO_STREAM, [NewEvent("e", 1)] * (2 if name == "z" else 1))
    return store


async def test_ids_are_sorted_bytewise(many):
    assert await many.streams.list_streams() == IN_ORDER


async def test_there_are_none_in_a_new_store(store):
    assert await store.streams.list_streams() == []
    assert (await store.streams.list_page()).next is None


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"prefix": "a"}, ["a", "a/1", "a/10", "a/2"]),
        ({"prefix": "a/1"}, ["a/1", "a/10"]),
        ({"prefix": "日"}, ["日本"]),
        ({"prefix": "nobody"}, []),
        ({"prefix": "a_"}, []),
        ({"prefix": "%"}, []),
        ({"pattern": "a/*"}, ["a/1", "a/10", "a/2"]),
        ({"pattern": "a/?"}, ["a/1", "a/2"]),
        ({"pattern": "*1*"}, ["a/1", "a/10"]),
        ({"pattern": "?"}, ["a", "z", "Ä", "é", "😀"]),
        ({"prefix": "a/1", "pattern": "*0"}, ["a/10"]),
        ({"after": "a/10"}, IN_ORDER[IN_ORDER.index("a/10") + 1 :]),
        ({"prefix": "a", "after": "a/1", "count": 1}, ["a/10"]),
    ],
)
async def test_some_of_them(many, options, found):
    assert await many.streams.list_streams(**options) == found


@pytest.mark.parametrize("pattern", [None, "*"])
async def test_pages_lead_through_all(many, pattern):
    found, after = [], None
    while True:
        page = await many.streams.list_page("", pattern, after, 3)
        assert len(page.streams) <= 3
        found += page.streams
        after = page.next
        if after is None:
            break
    assert [stream.stream_id for stream in found] == IN_ORDER
    assert {stream.stream_id: stream.version for stream in found}["z"] == 1


async def test_deleted_streams_are_not_listed(many):
    await many.streams.delete("a")
    await many.streams.delete("z", hard=True)
    assert await many.streams.list_streams() == [name for name in IN_ORDER if name not in {"a", "z"}]
    await many.streams.append("a", NO_STREAM, [NewEvent("e", 1)])
    assert "a" in await many.streams.list_streams()


@pytest.mark.parametrize("count", [0, -1, 10_001])
async def test_a_count_out_of_range_is_refused(many, count):
    with pytest.raises(InvalidRequest):
        await many.streams.list_streams(count=count)
    with pytest.raises(InvalidRequest):
        await many.streams.list_page(count=count)


async def test_the_store_has_no_streams_of_its_own_to_show(many):
    assert await many.streams.list_streams(prefix="$") == []
    assert await many.streams.list_streams(system=True) == IN_ORDER
