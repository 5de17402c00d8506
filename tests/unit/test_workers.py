"""Threads with a queue: jobs run off the loop, callbacks on it, and closing waits for what was queued."""

from __future__ import annotations

import asyncio
import threading

from shoal.storage.workers import ThreadWorker, run_job


async def test_a_job_runs_on_its_thread_and_its_callback_on_the_loop():
    worker = ThreadWorker("test", asyncio.get_running_loop())
    done = asyncio.get_running_loop().create_future()
    worker.submit(
        lambda: threading.current_thread().name,
        lambda name: done.set_result((name, threading.current_thread())),
    )
    assert await done == ("test", threading.main_thread())
    await asyncio.to_thread(worker.close)


async def test_an_exception_is_the_outcome():
    worker = ThreadWorker("test", asyncio.get_running_loop())
    done = asyncio.get_running_loop().create_future()
    worker.submit(lambda: 1 // 0, done.set_result)
    assert isinstance(await done, ZeroDivisionError)
    await asyncio.to_thread(worker.close)


async def test_one_thread_keeps_the_order():
    worker = ThreadWorker("test", asyncio.get_running_loop())
    ran = []
    for n in range(200):
        worker.submit(lambda n=n: ran.append(n))
    await asyncio.to_thread(worker.close)
    assert ran == list(range(200))


async def test_threads_start_when_they_are_needed_and_not_beyond_the_limit():
    worker = ThreadWorker("test", asyncio.get_running_loop(), threads=3)
    go_on = threading.Event()
    assert worker._threads == []
    for _ in range(8):
        worker.submit(lambda: go_on.wait(5))
    assert len(worker._threads) == 3
    go_on.set()
    await asyncio.to_thread(worker.close)
    assert worker._threads == []


async def test_a_callback_for_a_loop_that_is_gone_is_let_go():
    loop = asyncio.new_event_loop()
    worker = ThreadWorker("test", loop)
    loop.close()
    worker.submit(lambda: 1, lambda _: None)
    await asyncio.to_thread(worker.close)


async def test_whoever_waits_no_more_is_not_told():
    """Else the loop would log an error for each job whose caller has gone."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    worker = ThreadWorker("test", asyncio.get_running_loop())
    go_on = threading.Event()
    waiting = asyncio.ensure_future(run_job(worker, lambda: go_on.wait(5)))
    await asyncio.sleep(0)
    waiting.cancel()
    go_on.set()
    assert await run_job(worker, lambda: 1) == 1
    assert told == []
    await asyncio.to_thread(worker.close)
