"""The benchmark: its document, its verdicts, its probes, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shoal.testing.clock import FakeClock
from shoal_host.bench import load, probe, processes, reads, report, wear, workload
from shoal_host.bench.catalogue import SCENARIOS
from shoal_host.bench.processes import JobFailed
from shoal_host.bench.rows import Ratio, Row, Spread, at_least, at_most, percentile

MACHINE = {
    "cpu": "a cpu",
    "cores": 2,
    "memory_bytes": 2**31,
    "kernel": "Linux 6",
    "file_system": "ext4",
    "device": "sda",
    "python": "3.11",
    "sqlite": "3.54",
    "busy_percent": 1.0,
    "date": "2027-01-01",
}


def bench(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shoal_host.bench", "--data-dir", str(place), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_quick_rows_come_as_one_document_and_leave_nothing_behind(tmp_path: Path) -> None:
    run = bench(tmp_path, "--quick", "--json", "--only", "append-1", "--only", "read-pages")
    out, err = run.communicate(timeout=100)
    assert run.returncode == 0, err
    document = json.loads(out)
    assert document["quick"] is True
    assert document["judged"] == 3
    assert {"cpu", "cores", "kernel", "file_system", "python", "sqlite", "date"} <= document["machine"].keys()
    assert [row["name"] for row in document["rows"]] == ["append-1", "read-pages", "read-pages-data"]
    for row in document["rows"]:
        assert row["value"]["low"] <= row["value"]["median"] <= row["value"]["high"]
        assert row["ratio"]["reference"] > 0
        assert row["problem"] is None
        assert row["met"] == all(target["met"] for target in row["targets"])
        assert all({"text", "measured", "limit", "met"} == target.keys() for target in row["targets"])
    assert "[2/2] read-pages" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_neither_files_nor_processes(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = bench(tmp_path, "--only", "append-64")
    assert run.stderr is not None
    assert "append-64" in run.stderr.readline()
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    deadline = time.monotonic() + 20
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)


def test_a_name_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    run = bench(tmp_path, "--only", "nonsense")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert all(name in err for name in ("nonsense", *SCENARIOS))


def row(measured: float, limit: float) -> Row:
    ratio = Ratio(measured, "the disk", 1.0)
    return Row("x", "a thing", "s", Spread.of([3, 1, measured]), ratio, (at_most("limit", measured, limit),))


def test_a_row_is_met_when_every_target_is() -> None:
    assert Row("x", "w", targets=(at_least("a", 4, 4), at_most("b", 4, 4))).met is True
    assert Row("x", "w", targets=(at_least("a", 3, 4), at_most("b", 4, 4))).met is False
    assert Row("x", "w").met is None
    assert Row("x", "w", targets=(at_least("a", 3, 4),), problem="no disk").met is None


def test_the_table_names_machine_values_and_what_was_missed() -> None:
    rows = [row(2, 2), row(2.5, 2), Row("y", "another", problem="not installed")]
    document = report.document(rows, MACHINE, quick=False, seconds=5)
    text = report.as_text(rows, document)
    assert "a cpu, 2 cores, 2.0 GiB" in text
    assert "2.500 s" in text
    assert "NOT MET" in text
    assert "not measured" in text
    assert "1 of 2 rows" in text
    assert json.loads(report.as_json(document))["rows"][1]["met"] is False


def test_a_busy_machine_is_said() -> None:
    document = report.document([], {**MACHINE, "busy_percent": 80}, quick=True, seconds=5)
    assert "80 % busy" in report.as_text([], document)


def test_spread_and_percentile() -> None:
    assert Spread.of([5, 1, 2]) == Spread(2, 1, 5)
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(list(range(100)), 99) == 99


def test_payloads_take_about_200_bytes() -> None:
    sizes = {len(workload.payload_json(number)) for number in (0, 7, 99_999, 999_999)}
    assert 190 <= min(sizes) <= max(sizes) <= 210


def test_the_disk_and_the_machine_can_be_probed(tmp_path: Path) -> None:
    disk = probe.probe_disk(tmp_path, 0.01)
    assert disk.rate > 0
    assert disk.p50_s > 0
    assert list(tmp_path.iterdir()) == []
    assert probe.machine(tmp_path).keys() == MACHINE.keys()


def fails(what: str) -> None:
    raise ValueError(f"no {what}")


def adds(one: int, other: int) -> int:
    return one + other


async def test_a_job_gives_its_result_or_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setattr(adds, "__module__", Path(__file__).stem)
    monkeypatch.setattr(fails, "__module__", Path(__file__).stem)
    assert await processes.call(int, adds, 2, 3) == 5
    with pytest.raises(JobFailed, match="ValueError: no disk"):
        await processes.call(int, fails, "disk")


def test_an_hour_on_the_fake_clock_passes_at_once() -> None:
    clock = FakeClock()

    async def wait() -> None:
        due = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(3_600, due.set_result, None)
        clock.advance(3_599_000)
        await asyncio.sleep(0)
        assert not due.done()
        clock.advance(1_001)
        await due

    with asyncio.Runner(loop_factory=lambda: wear.FakeTimeLoop(clock)) as runner:
        runner.run(wait())


def test_slow_appends_count_every_event_and_its_bytes(tmp_path: Path) -> None:
    found = wear.append_slowly(str(tmp_path / "data"), 20)
    assert found.events == 20
    assert 190 * 20 <= found.event_bytes <= 210 * 20
    assert found.per_event > 200


def test_rare_events_are_spread_evenly() -> None:
    rare = [at for at in range(60) if reads.is_rare(at, 12)]
    assert rare == [11, 23, 35, 47, 59]


async def talk(*answers: list[bytes]) -> list[float]:
    """Run the load's client against a server that gives each request the next answer, in these pieces."""
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pieces in answers:
            await reader.readuntil(b"\r\n\r\n{}")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        left = iter([load.post("/x", b"{}")] * len(answers))
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: load.Connection(lambda: next(left, None)), "127.0.0.1", port
        )
        try:
            await client.done
        finally:
            await served.wait()
    return client.took_s


async def test_the_client_takes_answers_in_pieces() -> None:
    pieces = [b"HTTP/1.1 201 Created\r\nContent-Le", b"ngth: 5\r\n\r", b"\nab", b"cde"]
    assert len(await talk(pieces, pieces)) == 2


async def test_the_client_ends_on_any_answer_but_created() -> None:
    with pytest.raises(RuntimeError, match="409"):
        await talk([b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"])


def test_every_scenario_says_what_it_measures() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "shoal_host.bench", "--list"], capture_output=True, text=True, check=True
    ).stdout
    assert all(name in listed for name in SCENARIOS)
