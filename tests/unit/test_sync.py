"""The blocking face: same names, same errors, any thread, no hanging."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted_consumer import ScriptedSubscriptions, batch, delivered

import shoal
from shoal import sync
from shoal.client import RetryPolicy
from shoal.errors import (
    ConfigError,
    NotFound,
    ShuttingDown,
    StreamNotFound,
    TooBusy,
    Unreachable,
    WrongExpectedVersion,
)
from shoal.store import api
from shoal.types import ANY_VERSION, NO_STREAM, CaughtUp, EventFilter, NewEvent


@pytest.fixture
def store(tmp_path):
    with sync.open(data_dir=tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("blocking", "protocol"),
    [
        (sync.Streams, api.Streams),
        (sync.Snapshots, api.Snapshots),
        (sync.Subscriptions, api.Subscriptions),
        (sync.Store, api.Store),
    ],
)
def test_every_name_of_the_interface_is_there_with_its_parameters(blocking, protocol):
    names = [
        name
        for name in vars(protocol)
        if not name.startswith("_") and inspect.isfunction(vars(protocol)[name])
    ]
    assert names
    for name in names:
        wanted = inspect.signature(getattr(protocol, name)).parameters
        assert inspect.signature(getattr(blocking, name)).parameters == wanted, name


def test_append_and_read(store):
    version = store.streams.append("user-123", shoal.NO_STREAM, [NewEvent("user_created", {"name": "Alice"})])
    assert (version, version.position) == (0, 1)
    (event,) = store.streams.read("user-123", 0, 100, "forward")
    assert event.data == {"name": "Alice"}
    assert store.streams.list_streams() == ["user-123"]
    store.snapshots.save("user-123", 0, {"n": 1})
    assert store.snapshots.load("user-123").data == {"n": 1}
    assert store.aggregate("user-123").version == 0


def test_errors_come_through_unchanged(store):
    store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
    with pytest.raises(WrongExpectedVersion) as caught:
        store.streams.append("s", 7, [NewEvent("e", 1)])
    assert (caught.value.stream_id, caught.value.expected, caught.value.actual) == ("s", 7, 0)
    with pytest.raises(StreamNotFound):
        store.streams.read("nobody")


def test_many_threads_lose_nothing(store):
    def write(writer: int) -> None:
        for n in range(20):
            store.streams.append("s", ANY_VERSION, [NewEvent("e", [writer, n])])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert [event.version for event in store.streams.read("s", 0, 1_000)] == list(range(160))


def test_a_tail_is_an_iterator(store):
    store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
    with store.streams.tail(EventFilter(), 0) as tail:
        assert next(tail).data == 1
        assert next(tail) == CaughtUp(1)
        writer = threading.Thread(target=store.streams.append, args=("s", 0, [NewEvent("e", 2)]))
        writer.start()
        assert next(tail).data == 2
        writer.join()
    assert list(tail) == []
    tail.close()


def test_a_closed_store_says_so(tmp_path):
    store = sync.open(data_dir=tmp_path)
    store.close()
    store.close()
    with pytest.raises(ShuttingDown):
        store.streams.read("s")


def test_data_is_there_after_opening_again(tmp_path):
    with sync.open(data_dir=tmp_path) as store:
        store.streams.append("s", NO_STREAM, [NewEvent("e", 1)])
    with sync.open("main", tmp_path) as store:
        assert store.streams.get_version("s") == 0


def test_what_cannot_be_opened_leaves_no_thread_behind(tmp_path):
    (tmp_path / "file").write_text(json.dumps("no directory"))
    before = set(threading.enumerate())
    with pytest.raises((OSError, shoal.ShoalError)):
        sync.open(data_dir=tmp_path / "file")
    with pytest.raises(ConfigError):
        sync.connect("nonsense")
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith("shoal")]


def test_connecting_is_the_same():
    with (
        sync.connect("http://127.0.0.1:1", retry=RetryPolicy(attempts=1)) as store,
        pytest.raises(Unreachable),
    ):
        store.streams.read("s")


# -- waiting that is cut short: a store whose calls never end ------------------------------------------


class Endless:
    """Streams whose calls wait for ever; `waiting` is set once one does."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.cancelled = threading.Event()

    async def get_version(self, stream_id: str, **_: object) -> int:
        await self._wait()
        return 0

    def tail(self, *args: object) -> AsyncIterator[CaughtUp]:
        return self._tail()

    async def _tail(self):
        await self._wait()
        yield CaughtUp(0)

    async def _wait(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


class EndlessStore:
    name = "endless"
    snapshots = None
    subscriptions = None

    def __init__(self) -> None:
        self.streams = Endless()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


@pytest.fixture
def endless():
    inner = EndlessStore()
    with sync.Store(lambda: inner) as store:
        yield store, inner.streams


@pytest.mark.parametrize(
    "call",
    [lambda store: store.streams.get_version("s"), lambda store: next(store.streams.tail(EventFilter()))],
    ids=["call", "tail"],
)
def test_ctrl_c_ends_the_waiting_and_cancels_the_call(endless, call):
    store, streams = endless
    main = threading.main_thread().ident

    def interrupt() -> None:
        streams.waiting.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        call(store)
    assert streams.cancelled.wait(10)


def test_closing_ends_calls_that_wait_in_other_threads(endless):
    store, streams = endless
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.streams.get_version, "s")
        assert streams.waiting.wait(10)
        store.close()
        with pytest.raises(ShuttingDown) as caught:
            waiting.result(10)
    assert caught.value.outcome == "unknown"
    assert streams.cancelled.is_set()


# -- consumers: scripted, on the loop's thread ---------------------------------------------------------


class ScriptedStore(EndlessStore):
    """Its consumers are those of scripted subscriptions."""

    def __init__(self, subscriptions: ScriptedSubscriptions) -> None:
        super().__init__()
        self.subscriptions = subscriptions


@pytest.fixture
def scripted():
    stores = []

    def make(*batches, **options):
        subscriptions = ScriptedSubscriptions(*batches, **options)
        stores.append(sync.Store(lambda: ScriptedStore(subscriptions)))
        return stores[-1], subscriptions

    yield make
    for store in stores:
        store.close()


def test_a_consumer_is_an_iterator(scripted):
    store, subscriptions = scripted(batch(1, 2, 3), [])
    with store.subscriptions.subscribe("all", None, "sub") as consumer:
        first, second = next(consumer), next(consumer)
        consumer.ack(first)
        consumer.flush()
        consumer.nack(second, "skip", 5, "why")
        consumer.ack(next(iter(consumer)))
    assert [call[0] for call in subscriptions.calls] == ["create", "pull", "ack", "nack", "ack", "leave"]
    assert subscriptions.asked("nack") == [[["l2"], "skip", 5, "why"]]


def test_a_body_that_fails_is_not_masked_by_leaving(scripted):
    store, subscriptions = scripted(batch(1))
    subscriptions.leave_answers = [TooBusy("now")]
    with (
        pytest.raises(ValueError, match="mine"),
        store.subscriptions.subscribe("all", None, "sub") as consumer,
    ):
        next(consumer)
        raise ValueError("mine")
    assert subscriptions.asked("leave") == ["me"]


def test_handlers_run_in_the_callers_thread_one_after_the_other(scripted):
    store, subscriptions = scripted(
        [delivered(n, f"s{n}") for n in range(8)], NotFound("enough"), pool_size=4
    )
    handled, at_work = [], threading.Lock()

    def handle(event) -> None:
        assert threading.current_thread() is threading.main_thread()
        with at_work:
            handled.append(event.version)
        if event.version == 3:
            next(iter(()))  # a StopIteration is as good a failure as any

    with (
        store.subscriptions.subscribe("all", None, "sub") as consumer,
        pytest.raises(NotFound, match="enough"),
    ):
        consumer.run(handle)
    assert sorted(handled) == list(range(8))
    assert [leases for leases, *_ in subscriptions.asked("nack")] == [["l3"]]
    assert sorted(lease for leases in subscriptions.asked("ack") for lease in leases) == [
        f"l{n}" for n in range(8) if n != 3
    ]


def test_an_async_handler_is_refused_before_anything_is_acked(scripted):
    store, subscriptions = scripted(batch(1))

    async def handle(event) -> None:
        raise AssertionError("nobody would await it")

    with (
        store.subscriptions.subscribe("all", None, "sub") as consumer,
        pytest.raises(TypeError, match="plain"),
    ):
        consumer.run(handle)
    assert subscriptions.asked("ack") == []


def test_ctrl_c_in_a_handler_ends_the_run(scripted):
    store, subscriptions = scripted(batch(1, 2))

    def handle(event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.subscriptions.subscribe("all", None, "sub") as consumer:
        consumer.run(handle)
    assert [call[0] for call in subscriptions.calls] == ["create", "pull", "leave"]


def test_closing_ends_a_run_in_another_thread(scripted):
    store, _ = scripted(batch(1))
    handled = threading.Event()
    consumer = store.subscriptions.subscribe("all", None, "sub")
    consumer.__enter__()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(consumer.run, lambda event: handled.set())
        assert handled.wait(10)
        store.close()
        with pytest.raises(ShuttingDown):
            running.result(10)


def test_nothing_is_handled_after_the_run_has_ended(scripted):
    store, _ = scripted([delivered(n, f"s{n}") for n in range(8)], pool_size=8)
    handled = []

    def handle(event) -> None:
        handled.append(event)
        store.close()

    consumer = store.subscriptions.subscribe("all", None, "sub")
    consumer.__enter__()
    with pytest.raises(ShuttingDown):
        consumer.run(handle)
    assert len(handled) == 1
