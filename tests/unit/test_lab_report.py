"""The report: what each fault met, and that a run which proves nothing is a failure."""

from __future__ import annotations

import pytest
from history_kit import append, conflict, read_all, stored

from shoal.errors import ConfigError
from shoal_host.lab.recorder import Began, Did, Found, Kept, Recorder, Stayed, read_lines
from shoal_host.lab.report import fields, judge

SECOND = 1_000_000


def lines(nodes=3, faults=("kill",), *, acks_s=(1, 2, 4, 7), stays=((3, 5, 8),)):
    """One append acknowledged at each of `acks_s`, and faults of (begin, end, over) in seconds."""
    events = [(f"e{n}", n, n + 1) for n in range(len(acks_s))]
    appends = [
        append(n, round((at - 0.5) * SECOND), round(at * SECOND), events[n]) for n, at in enumerate(acks_s)
    ]
    return [
        Began(7, nodes, 10, tuple(faults), "proxies"),
        Stayed("none", "", ("none",), 0, 3 * SECOND, 3 * SECOND),
        *(Stayed("kill", "n1", ("kill",), *(at * SECOND for at in stay)) for stay in stays),
        *map(Did, appends),
        *map(Kept, stored(*events)),
    ]


def test_operations_are_counted_by_the_fault_they_met() -> None:
    report = judge(lines(), elections=2, history="h")
    none, kill = report.faults
    assert (none.fault, none.times, none.operations, none.acked) == ("none", 1, 2, 2)
    assert (kill.fault, kill.times, kill.operations, kill.acked, kill.acked_during) == ("kill", 1, 2, 2, 1)
    assert report.violations == []
    assert (report.operations, report.acked, report.events) == (4, 4, 4)
    assert (report.seed, report.nodes, report.elections) == (7, 3, 2)


def test_the_longest_gap_is_within_the_fault_or_goes_out_of_it() -> None:
    assert judge(lines()).faults[1].longest_gap_ms == 3000
    late = judge(lines(acks_s=(1, 2, 4, 12)))
    assert late.faults[1].longest_gap_ms == 8000
    never = judge(lines(acks_s=(1, 2)))
    assert never.faults[1].longest_gap_ms == 5000


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"acks_s": (1, 2)}, "under kill there were 0 operations and 0 acknowledgements"),
        ({"acks_s": (1, 2, 15), "stays": ((3, 14, 16),)}, "while kill stayed, nothing was acknowledged"),
        ({"stays": ()}, "the fault kill did not come"),
        ({"faults": ("kill", "pause")}, "the fault pause did not come"),
    ],
)
def test_a_fault_without_traffic_is_a_failure(arguments, what) -> None:
    (violation,) = judge(lines(**arguments)).violations
    assert what in violation


def test_one_node_alone_need_not_go_on_while_it_is_dead() -> None:
    assert judge(lines(nodes=1, acks_s=(1, 2, 15), stays=((3, 14, 16),))).violations == []


def test_a_fault_may_end_before_another_leads() -> None:
    assert judge(lines(acks_s=(1, 2, 7))).violations == []


def test_two_nodes_at_fault_say_nothing_of_how_long_one_stops_the_store() -> None:
    two = Stayed("kill and cut", "n1 n2", ("kill", "cut"), 3 * SECOND, 5 * SECOND, 8 * SECOND)
    none, kill, cut = judge([*lines(faults=("kill", "cut"), stays=()), two]).faults
    assert none.longest_gap_ms > 0
    assert (kill.longest_gap_ms, cut.longest_gap_ms) == (0, 0)
    assert kill.stayed_ms == 2000


def test_what_was_found_on_the_way_and_by_the_checkers_is_told() -> None:
    run = [line for line in lines() if not (isinstance(line, Kept) and line.event.event_id == "e3")]
    died, lost = judge([*run, Found("n2 ended by itself")]).violations
    assert died == "n2 ended by itself"
    assert "event e3" in lost
    assert not fields(judge([*run, Found("x")]))["ok"]
    assert fields(judge(lines()))["ok"]


def test_a_run_that_could_not_go_on_says_so_and_judges_nothing_else() -> None:
    run = [line for line in lines(stays=()) if not isinstance(line, Kept)]
    assert judge([*run, Found("n1 is gone", fatal=True)]).violations == ["n1 is gone"]


def test_outcomes_are_counted_by_kind_and_error() -> None:
    more = [Did(conflict(10, 0, 1, -1)), Did(read_all(11, 0, 1, 0)), Did(read_all(12, 0, 1, 0))]
    assert judge([*lines(), *more]).outcomes == {
        "append: applied": 4,
        "read all: applied": 2,
        "append: not-applied, wrong-expected-version": 1,
    }


def test_lines_are_read_back_as_they_were_recorded(tmp_path) -> None:
    times = iter(range(10, 1000, 5))
    run = [*lines(), Found("x")]
    with Recorder(tmp_path / "h", monotonic_ns=lambda: next(times) * 1000) as recorder:
        assert [recorder.now_us(), recorder.now_us()] == [5, 10]
        assert [recorder.number(), recorder.number()] == [1, 2]
        for line in run:
            recorder.add(line)
    assert read_lines(tmp_path / "h") == run == recorder.lines
    assert judge(read_lines(tmp_path / "h")) == judge(run)


@pytest.mark.parametrize("text", ["{", '{"line": "other"}', '{"line": "final", "event": 1}', "\xff"])
def test_a_file_that_is_no_history_is_refused(tmp_path, text) -> None:
    path = tmp_path / "h"
    path.write_bytes(b'{"line":"found","what":"x"}\n' + text.encode("latin-1") + b"\n")
    with pytest.raises(ConfigError, match="line 2 is no line of a history"):
        read_lines(path)
