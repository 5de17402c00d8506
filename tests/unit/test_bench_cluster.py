"""The benchmark of a cluster: its verdicts, and what counts as an answer, a silence and an election."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from shoal_host.bench.catalogue import CLUSTER, SCENARIOS
from shoal_host.bench.cluster import disks, driving, embedded, etcd, nats, outages, rivals, watching
from shoal_host.bench.load import Load, _converse, post
from shoal_host.bench.processes import free_port, program
from shoal_host.bench.rows import Row


def load(rate: float) -> Load:
    return Load(100, rate, 0.001, 0.002, 0.5)


def verdicts(row: Row) -> dict[str, bool]:
    return {target.text: target.met for target in row.targets}


# --- rivals


def test_ours_is_held_against_each_rival_that_ran() -> None:
    found = {
        "cluster-http": [load(3_000), load(4_000), load(5_000)],
        "cluster-connect": [load(900), load(1_000), load(1_100)],
        "etcd": [load(2_000)] * 3,
    }
    http, connect, by_etcd, by_nats = rivals.rows(found, 1_000)
    assert verdicts(http) == {"ahead of etcd": True}
    assert verdicts(connect) == {"ahead of etcd": False}
    assert http.ratio is not None
    assert (http.ratio.value, http.ratio.to) == (4, "fdatasync rate")
    assert by_etcd.ratio is not None
    assert (by_etcd.ratio.value, by_etcd.ratio.reference) == (0.5, 4_000)
    assert by_etcd.targets == ()
    assert by_nats.problem == "not installed; pip install 'shoal[bench]'"


def test_a_rival_that_wins_half_of_the_time_by_chance_is_judged_in_turns() -> None:
    """The machine was three times as fast in the last turn: rates alone would say nothing."""
    found = {
        "cluster-http": [load(1_000), load(1_000), load(3_000)],
        "cluster-connect": [load(1_000)] * 3,
        "nats": [load(1_100), load(1_100), load(1_500)],
    }
    http = rivals.rows(found, 1_000)[0]
    assert verdicts(http) == {"ahead of nats": False}


def test_nats_syncs_before_it_answers() -> None:
    text = nats.configuration("s0", 1, 2, "nats://127.0.0.1:3", Path("data"))
    assert "sync_interval: always" in text
    assert 'store_dir: "data"' in text
    assert "listen: 127.0.0.1:2, routes: [nats://127.0.0.1:3]" in text


async def test_nats_is_asked_again_while_it_is_not_done_with_the_last_message() -> None:
    from nats.js import errors

    codes = [None, 10164, None, 10071]
    expected: list[str] = []

    class JetStream:
        async def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> object:
            expected.extend(headers.values())
            code = codes[len(expected) - 1]
            if code is not None:
                raise errors.BadRequestError(code=400, err_code=code)
            return SimpleNamespace(seq=len(expected))

    append = nats._writer(JetStream(), "bench.x")
    await append()
    await append()
    with pytest.raises(errors.BadRequestError):
        await append()
    assert expected == ["0", "1", "1", "3"]


def test_a_server_is_looked_for_where_it_may_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert etcd.binary() is nats.binary() is None
    for name in ("etcd", "nats-server"):
        (tmp_path / name).touch(mode=0o700)
    assert (etcd.binary(), nats.binary()) == (str(tmp_path / "etcd"), str(tmp_path / "nats-server"))


async def test_every_writer_awaits_its_answer_before_the_next() -> None:
    under_way = [0, 0]

    def writer(number: int) -> driving.Append:
        async def append() -> None:
            under_way[number] += 1
            assert under_way[number] == 1
            await asyncio.sleep(0)
            under_way[number] -= 1

        return append

    found = await driving.drive([writer(0), writer(1)], 0.2)
    assert found.requests > 2
    assert found.p50_s <= found.p99_s


async def test_what_a_writer_raises_ends_the_load() -> None:
    async def append() -> None:
        raise RuntimeError("etcd has it already")

    with pytest.raises(RuntimeError, match="already"):
        await driving.drive([append], 0.2)


async def test_connections_are_spread_over_the_boards() -> None:
    asked = [0, 0]

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked[number] += 1
        while await reader.read(4_096):
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    first = await asyncio.start_server(lambda r, w: serve(0, r, w), "127.0.0.1", 0)
    second = await asyncio.start_server(lambda r, w: serve(1, r, w), "127.0.0.1", 0)
    async with first, second:
        ports = [server.sockets[0].getsockname()[1] for server in (first, second)]
        two_each = [iter([post("/x", b"")] * 2) for _ in range(4)]
        took = await _converse(ports, [lambda left=left: next(left, None) for left in two_each])
    assert asked == [2, 2]
    assert len(took) == 8


async def test_a_program_that_ends_says_why(tmp_path: Path) -> None:
    from shoal_host.bench.processes import JobFailed

    with pytest.raises(JobFailed, match="no such member"):
        async with program(["/bin/sh", "-c", "echo no such member >&2"], free_port(), tmp_path / "log"):
            pass


# --- embedded


def test_an_appends_row_is_held_to_what_its_shape_must_reach() -> None:
    shape = embedded.Shape("cluster-leader-64", "leader", 64, 1, 12_000, 3)
    done = [embedded.Done(rate, 0.001, 0.002, 4_000) for rate in (11_000, 12_500, 13_000)]
    row = embedded.appends_row(shape, done)
    assert row.what == "three nodes, on the leader: 64 writers, 1 event per append"
    assert verdicts(row) == {"12,000/s (idle 2-core machine)": True, "3x fdatasync rate": True}
    assert verdicts(embedded.appends_row(shape, done[:1])) == {
        "12,000/s (idle 2-core machine)": False,
        "3x fdatasync rate": False,
    }


@pytest.mark.parametrize(("side", "met"), [("leader", False), ("follower", True)])
def test_a_read_is_held_against_the_round_trip_of_its_phase(side: embedded.Side, met: bool) -> None:
    row = embedded.reads_row(side, [embedded.Reads(0.002, 0.003, 0.001)] * 3)
    assert row.met is met
    assert row.ratio is not None
    assert (row.ratio.value, row.ratio.reference) == (2, 1)


# --- outages and disks


def watched(*answers: list[tuple[float, float]]) -> watching.Watched:
    found = watching.Watched(len(answers))
    found.answers = [[watching.Answer(*answer) for answer in client] for client in answers]
    return found


def test_an_append_that_was_under_way_does_not_count() -> None:
    found = watched([(0.9, 1.2), (1.2, 1.9)], [(0.5, 1.1), (1.1, 1.7)])
    assert found.first_after(1.0) == pytest.approx(0.7)
    assert found.first_after(2.0) is None


def test_silence_counts_from_the_start_and_to_the_end() -> None:
    assert watching.silence([0.0, 3.0, 4.0, 9.0], 1.0, 6.0) == 2.0
    assert watching.silence([0.0, 1.5, 9.0], 1.0, 6.0) == 4.5
    assert watching.silence([], 1.0, 6.0) == 5.0


def test_a_client_that_waits_is_not_hidden_by_the_others() -> None:
    found = watched([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], [(0.0, 0.5)])
    assert found.longest_silence(0.0, 4.0) == 3.5
    assert found.longest_outage(0.0, 4.0) == 1.0
    assert found.answered(0.6, 2.5) == 2


def test_the_worst_kill_is_judged_too() -> None:
    assert verdicts(outages.killed_row([0.1, 0.2, 1.6], [])) == {
        "median under 0.5 s": True,
        "worst under 1.5 s": False,
    }


def test_a_client_that_hangs_is_said() -> None:
    assert verdicts(outages.paused_row([0.5, 1.0], 1, [])) == {
        "all go on within 2 s": True,
        "none hangs": False,
    }
    assert outages.paused_row([0.5, 2.5], 0, []).met is False


def test_one_election_is_too_many() -> None:
    assert disks.slow_row(0, 300, 5, 10_000, 0.2).met
    assert disks.slow_row(1, 300, 5, 10_000, 0.2).met is False
    assert disks.slow_row(0, 300, 5, 10_000, 0.2).details["rate"] == pytest.approx(33.3, rel=0.01)


def test_every_hanging_disk_is_judged() -> None:
    assert disks.hung_row([1.0, 2.9], []).met
    assert disks.hung_row([1.0, 3.1, 1.0], []).met is False


def test_the_cluster_is_measured_by_these_scenarios() -> None:
    assert CLUSTER == (
        "cluster",
        "cluster-http",
        "cluster-killed",
        "cluster-paused",
        "cluster-slow-disk",
        "cluster-hung-disk",
    )
    assert set(CLUSTER) < set(SCENARIOS)
