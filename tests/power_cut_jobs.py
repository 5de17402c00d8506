"""Runs of the power-cut suite, made to be run in a process of their own: record lives of a board, cut its power."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
import power_cut_mutants
from power_cut_check import (
    COMMIT_ROWS,
    LATE,
    MAIN,
    SEGMENT_BYTES,
    Problem,
    Reference,
    check_chains,
    read,
    reopen,
)
from power_cut_passing import Passed, Passing
from power_cut_workload import Answered, Asked, Model, Workload

from shoal.config import Config, StorageConfig, StoreConfig
from shoal.node import Means, Node
from shoal.storage.files import Files
from shoal.storage.recovery import Opened
from shoal.testing import Image, PowerCutDisk, WriteLog, build_image, images, scratch_root
from shoal.testing.clock import FakeClock
from shoal.testing.inline_worker import InlineWorker
from shoal.testing.write_log import Mark, Write

ROUNDS: Final = 60
ROUNDS_AFTER: Final = 6
IMAGES_AFTER: Final = 100
KEPT_FAILURES: Final = 5


@dataclass(frozen=True)
class Job:
    """`count` images of the life of a board; some `again` are taken up, worked with, and cut once more.

    A `mutant` breaks a rule of storage on purpose.
    """

    seed: int
    count: int
    again: int = 0
    mutant: str | None = None


@dataclass
class Outcome:
    """What a job found; `failures` are the first few, each printable and reproducible."""

    images: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    facts: dict[str, int] = field(default_factory=dict)

    def fail(self, text: str) -> None:
        """Count a failing image."""
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(text)


@dataclass(frozen=True)
class Recorded:
    """A life that was never cut: its log, and what each store holds in the end."""

    log: WriteLog
    references: Sequence[Reference]
    passed: Passed
    facts: Mapping[str, int]


Life = Callable[[PowerCutDisk, Files], Coroutine[Any, Any, tuple[list[Workload], Passing]]]


def run(job: Job) -> Outcome:
    """Record once, then cut `count` times; each image is recovered and checked."""
    outcome = Outcome()
    with scratch() as path, power_cut_mutants.applied(job.mutant) as wrap:
        recorded = record(path / "live", wrap, lambda disk, files: first_life(disk, files, job.seed), {})
        outcome.facts = dict(recorded.facts)
        started = time.perf_counter()
        cut_and_judge(recorded, path / "image", job.count, job.seed, outcome)
        chosen = images(recorded.log, path / "image", job.again, -job.seed) if job.again else ()
        for image in chosen:
            run_again(recorded, image, path, outcome)
        outcome.seconds = time.perf_counter() - started
    return outcome


def replay(seed: int) -> str | None:
    """Lose every database and keep the journal: what is wrong with what it gives, None when nothing is."""
    with scratch() as path:
        life: Life = lambda disk, files: first_life(disk, files, seed, segment_bytes=1 << 22)  # noqa: E731
        recorded = record(path / "live", lambda files: files, life, {})
        for file in path.glob("live/db/*/*"):
            file.unlink()
        opened = reopen(path / "live")
        try:
            for reference in recorded.references:
                found = read(opened, reference.name)
                if found.state != reference.model.states[-1] or found.rows != reference.rows:
                    return f"workload seed {seed}: store {reference.name} is not as its life left it"
            recorded.passed.check_end(opened)
        finally:
            close(opened)
    return None


def cut_and_judge(recorded: Recorded, target: Path, count: int, seed: int, outcome: Outcome) -> None:
    """Cut the power `count` times."""
    for number, image in enumerate(images(recorded.log, target, count, seed)):
        outcome.images += 1
        try:
            judge(image, recorded, thorough=number % 20 == 0)
        except Exception as error:  # noqa: BLE001 - whatever recovery raises is what was found
            outcome.fail(f"workload seed {seed}, {image.describe()}\n  => {type(error).__name__}: {error}")


def judge(image: Image, recorded: Recorded, *, thorough: bool) -> dict[str, int]:
    """Recover an image; which step of its history each store is at. Raises Problem, and what recovery raises."""
    opened = reopen(image.path)
    try:
        if any("damaged" in note for note in opened.notes):
            raise Problem(str(opened.notes))
        steps = {}
        recorded.passed.check(opened, image.marks)
        for reference in recorded.references:
            found = read(opened, reference.name)
            steps[reference.name] = reference.check(found, image.marks)
            if thorough:
                check_chains(found)
        if thorough:
            integrity_check(opened)
        return steps
    finally:
        close(opened)


def integrity_check(opened: Opened) -> None:
    """Have SQLite look at everything. Raises Problem."""
    for database in (opened.engine.catalog, *(store.db for store in opened.engine.stores.values())):
        if database.connection.pragma("integrity_check") != "ok":
            raise Problem(f"SQLite says that {database.path.name} is damaged")


def run_again(recorded: Recorded, image: Image, path: Path, outcome: Outcome) -> None:
    """Take the board up as the cut left it, ask again what was not answered, work on, and cut again."""
    text = f"second life after {image.describe()}"
    try:
        steps = judge(image, recorded, thorough=True)
        shutil.rmtree(path / "again", ignore_errors=True)
        build_image(recorded.log, path / "again", image.cut, image.seed)
        models = {each.name: each.model.until(steps[each.name]) for each in recorded.references}
        second = record(
            path / "again",
            lambda files: files,
            lambda disk, files: second_life(disk, files, image, models),
            {name: len(model.states) - 1 for name, model in models.items()},
        )
    except Exception as error:  # noqa: BLE001 - whatever the node raises is what was found
        outcome.fail(f"{text}\n  => {type(error).__name__}: {error}")
        return
    failed = outcome.failed
    cut_and_judge(second, path / "image-again", IMAGES_AFTER, image.seed, outcome)
    if outcome.failed > failed:
        outcome.failures.append(text)


# -- recording -----------------------------------------------------------------------------------


class _StillLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still: no timer fires, so the log depends on the seed alone."""

    def time(self) -> float:
        return 0.0


def record(root: Path, wrap: power_cut_mutants.Wrap, life: Life, bases: Mapping[str, int]) -> Recorded:
    """Let a life happen on a recorded disk, and read what it left there."""
    disk = PowerCutDisk(root)
    with asyncio.Runner(loop_factory=_StillLoop) as runner:
        workloads, passing = runner.run(life(disk, wrap(disk.files)))
    disk.close()
    if set(disk.unrecorded()) - {"LOCK"}:
        raise Problem(f"written past the log: {disk.unrecorded()}")
    facts = {"log entries": len(disk.log.entries)}
    for workload in workloads:
        for answer, count in workload.answers.items():
            facts[answer] = facts.get(answer, 0) + count
    marks = [entry.value for entry in disk.log.entries if isinstance(entry, Mark)]
    opened = reopen(root)
    try:
        facts["journal begins at"] = opened.journal.first_index
        facts["journal ends at"] = opened.journal.last_index
        references = [
            Reference(each.name, read(opened, each.name), each.model, bases.get(each.name, 0), marks)
            for each in workloads
        ]
    finally:
        close(opened)
    return Recorded(disk.log, references, Passed(passing, marks), facts)


def log_shape(seed: int) -> list[tuple[object, ...]]:
    """What a first life did to the disk, without the bytes: SQLite salts its WAL at random."""
    with scratch() as path:
        log = record(
            path / "live", lambda files: files, lambda disk, files: first_life(disk, files, seed), {}
        ).log
    return [
        ("Write", entry.node, entry.offset, len(entry.data), entry.size)
        if isinstance(entry, Write)
        else tuple(entry)
        for entry in log.entries
        if not isinstance(entry, Mark)
    ]


async def first_life(
    disk: PowerCutDisk, files: Files, seed: int, *, segment_bytes: int = SEGMENT_BYTES
) -> tuple[list[Workload], Passing]:
    """A new board: a clean restart in the middle, a second store when the journal has long been shortened."""
    main = Workload(MAIN, seed, disk.mark, Model())
    late = Workload(LATE, seed, disk.mark, Model())
    clock, passing = FakeClock(), Passing(disk.mark)
    means = means_of(disk, files, clock, seed)
    async with await Node.open(config(disk.root, segment_bytes), means=means) as node:
        await work(node, [main], clock, ROUNDS // 2, passing)
    async with await Node.open(config(disk.root, segment_bytes), means=means) as node:
        with slow_reader(disk):
            await work(node, [main], clock, ROUNDS // 4, passing)
        await node.create_store(LATE)
        await work(node, [main, late], clock, ROUNDS // 4, passing)
        await main.look(node.store(MAIN))
    return [main, late], passing


@contextmanager
def slow_reader(disk: PowerCutDisk) -> Iterator[None]:
    """Somebody who reads an old state all the while, so that the WAL cannot be moved into the file wholly."""
    (path,) = disk.root.glob(f"db/*/{MAIN}-*.db")
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=disk.vfs_name)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM event").fetchall()
    try:
        yield
    finally:
        connection.close()


async def second_life(
    disk: PowerCutDisk, files: Files, image: Image, models: Mapping[str, Model]
) -> tuple[list[Workload], Passing]:
    """After a power cut: everything is as it was found, what was not answered is asked again, work goes on."""
    clock, passing = FakeClock(), Passing(disk.mark)
    workloads = [Workload(name, image.seed, disk.mark, model) for name, model in models.items()]
    async with await Node.open(config(disk.root), means=means_of(disk, files, clock, image.seed)) as node:
        await passing.take_up(node)
        for workload in workloads:
            if workload.name not in node.stores:
                await node.create_store(workload.name)
            store = node.store(workload.name)
            await workload.look(store)
            await workload.retry(store, unanswered(image.marks, workload.name))
        await work(node, workloads, clock, ROUNDS_AFTER, passing)
        for workload in workloads:
            await workload.look(node.store(workload.name))
    return workloads, passing


async def work(
    node: Node, workloads: Sequence[Workload], clock: FakeClock, rounds: int, passing: Passing
) -> None:
    """Rounds of each workload on its own store. Raises what made the node fail."""
    for _ in range(rounds):
        await passing.step(node)
        for workload in workloads:
            clock.advance(7)
            await workload.run(node.store(workload.name), 1)
    if node.failed.done():
        await node.failed


def unanswered(marks: Sequence[object], name: str) -> list[Sequence[Any]]:
    """The appends to a store that were under way when the power went."""
    answered = {mark.number for mark in marks if isinstance(mark, Answered) and mark.store == name}
    asked = [mark for mark in marks if isinstance(mark, Asked) and mark.store == name]
    return [mark.writes for mark in asked if mark.number not in answered and mark.writes]


def means_of(disk: PowerCutDisk, files: Files, clock: FakeClock, seed: int) -> Means:
    """One thread, a clock by hand, seeded randomness, and every write in the log."""
    loop = asyncio.get_running_loop()
    return Means(
        clock=clock,
        files=files,
        workers=lambda _name, _threads: InlineWorker(loop),
        entropy=random.Random(seed).randbytes,
        vfs=disk.vfs_name,
    )


def config(data_dir: Path, segment_bytes: int = SEGMENT_BYTES) -> Config:
    """Everything small, so that a short life commits, rolls and truncates often."""
    return Config(
        data_dir=data_dir,
        stores=(StoreConfig(MAIN),),
        reader_pool_size=1,
        storage=StorageConfig(
            segment_bytes=segment_bytes,
            reserve_bytes=8 * 1024,
            commit_rows=COMMIT_ROWS,
            wal_limit_bytes=64 * 1024,
            cache_bytes=256 * 1024,
        ),
    )


def close(opened: Opened) -> None:
    """Give a recovered directory up."""
    opened.engine.close()
    opened.journal.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory where files are in memory, if the machine has that."""
    path = Path(tempfile.mkdtemp(prefix="shoal-", dir=scratch_root()))
    try:
        yield path
    finally:
        shutil.rmtree(path)
