"""The commands that use a store, on one in memory: what they do and what they print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shoal.testing.clock import FakeClock
from shoal.testing.memory_store import MemoryStore, MemoryStreams
from shoal_host.group import main
from shoal_host.options import Environment


class Shell:
    """Calls `shoal` on one store; closing it between calls does nothing."""

    def __init__(self) -> None:
        self.store = MemoryStore("main", clock=FakeClock())

    def __call__(self, *arguments: str, stdin: str | None = None, code: int = 0) -> Result:
        environment = Environment(connect=lambda target: self.store)  # type: ignore[arg-type,return-value]
        result = CliRunner().invoke(main, arguments, obj=environment, input=stdin, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


@pytest.fixture
def shoal() -> Shell:
    """A store with a counter of five events in one stream and two in another."""
    shell = Shell()
    lines = "".join(f'{{"n": {n}, "total": {{"$sum": 1}}}}\n' for n in range(5))
    shell("append", "count-1", "counted", "-", "--tag", "odd", stdin=lines)
    shell("append", "count-2", "started", '"by hand"', "--tag", "odd", "--tag", "rare")
    shell("append", "count-2", "counted", "[7]")
    return shell


def test_read_shows_a_line_per_event(shoal: Shell) -> None:
    lines = shoal("read", "count-2").stdout.splitlines()
    assert [line.split("  ")[1:] for line in lines] == [
        ["count-2@0", "started", '"by hand"'],
        ["count-2@1", "counted", "[7]"],
    ]


def test_read_as_json_is_one_document_with_what_http_gives(shoal: Shell) -> None:
    page = shoal.json("read", "count-1", "--from", "1", "--count", "2")
    assert (page["stream_id"], page["version"], page["next"]) == ("count-1", 4, 3)
    assert [event["data"]["n"] for event in page["events"]] == [1, 2]
    first = page["events"][0]
    assert set(first) == {
        *("stream_id", "version", "position", "event_id", "event_type", "data", "metadata", "tags"),
        *("epoch_us", "timestamp", "data_content_type", "metadata_content_type"),
    }
    assert (first["version"], first["position"], first["tags"]) == (1, 2, ["odd"])


def test_read_backward_begins_at_the_head(shoal: Shell) -> None:
    page = shoal.json("read", "count-1", "--backward", "--count", "2")
    assert [event["version"] for event in page["events"]] == [4, 3]


@pytest.mark.parametrize("consistency", ["local", "leader", "linearizable"])
def test_read_is_as_new_as_it_is_asked_to_be(
    shoal: Shell, monkeypatch: pytest.MonkeyPatch, consistency: str
) -> None:
    asked = []
    read_page = MemoryStreams.read_page

    async def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(options["consistency"])
        return await read_page(self, *arguments, **options)

    monkeypatch.setattr(MemoryStreams, "read_page", noted)
    monkeypatch.setattr("shoal_host.commands.read.PAGE", 2)
    assert len(shoal.json("read", "count-1", "--consistency", consistency)["events"]) == 5
    assert asked == [consistency] * 3
    assert "Invalid value" in shoal("read", "count-1", "--consistency", "strong", code=2).stderr


def test_read_goes_on_over_pages(shoal: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_host.commands.read.PAGE", 2)
    monkeypatch.setattr("shoal_host.commands.query.PAGE", 2)
    assert [event["version"] for event in shoal.json("read", "count-1")["events"]] == [0, 1, 2, 3, 4]
    assert [event["position"] for event in shoal.json("query")["events"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [event["position"] for event in shoal.json("query", "--backward")["events"]] == [
        7,
        6,
        5,
        4,
        3,
        2,
        1,
    ]
    assert [event["position"] for event in shoal.json("query", "--count", "3")["events"]] == [1, 2, 3]


def test_read_of_a_missing_stream_ends_with_4(shoal: Shell) -> None:
    assert "`shoal streams` lists" in shoal("read", "nobody", code=4).stderr


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ((), [1, 2, 3, 4, 5, 6, 7]),
        (("--type", "started"), [6]),
        (("--tag", "odd", "--tag", "rare"), [6]),
        (("--tag", "odd", "--tag", "rare", "--any-tag"), [1, 2, 3, 4, 5, 6]),
        (("--pattern", "*-2", "--after", "6"), [7]),
        (("--type", "counted", "--backward", "--count", "2"), [7, 5]),
        (("--query", '{"items": [{"tags": ["rare"]}, {"types": ["counted"]}]}', "--after", "4"), [5, 6, 7]),
    ],
)
def test_query_selects(shoal: Shell, options: tuple[str, ...], positions: list[int]) -> None:
    page = shoal.json("query", *options)
    assert [event["position"] for event in page["events"]] == positions
    assert page["head"] == 7


def test_streams_are_listed_with_versions(shoal: Shell) -> None:
    assert shoal("streams").stdout.splitlines() == ["stream\tversion", "count-1\t4", "count-2\t1"]
    assert shoal.json("streams", "--pattern", "*2") == {
        "streams": [{"stream_id": "count-2", "version": 1}],
        "next": None,
    }
    assert shoal.json("streams", "--count", "1")["next"] == "count-1"


def test_tail_begins_with_the_last_events_and_goes_on(shoal: Shell) -> None:
    result = shoal("tail", "--last", "3", "--count", "3", "--json")
    assert [json.loads(line)["position"] for line in result.stdout.splitlines()] == [5, 6, 7]
    result = shoal("tail", "count-1", "--last", "2", "--count", "2", "--json")
    assert [json.loads(line)["version"] for line in result.stdout.splitlines()] == [3, 4]
    result = shoal("tail", "--after", "2", "--type", "counted", "--count", "4", "--json")
    assert [json.loads(line)["position"] for line in result.stdout.splitlines()] == [3, 4, 5, 7]


def test_aggregate_folds(shoal: Shell) -> None:
    assert shoal.json("aggregate", "count-1") == {"version": 4, "state": {"n": 4, "total": 5}}
    assert shoal.json("aggregate", "count-1", "--at", "1")["state"] == {"n": 1, "total": 2}
    assert shoal.json("aggregate", "count-1", "--tagged")["state"]["total"] == {"$sum": 5}
    assert shoal("aggregate", "count-1").stdout.splitlines() == ["field\tvalue", "n\t4", "total\t5"]


def test_snapshots_are_saved_shown_and_deleted(shoal: Shell) -> None:
    shoal("snapshot", "save", "count-1", "2", '{"n": 2, "total": 3}')
    shoal("snapshot", "save", "count-1", "4", '{"n": 4, "total": 5}')
    assert shoal.json("snapshot", "show", "count-1")["version"] == 4
    assert shoal.json("snapshot", "show", "count-1", "2")["data"] == {"n": 2, "total": 3}
    shoal("snapshot", "delete", "count-1", "4")
    assert [one["version"] for one in shoal.json("snapshot", "list", "count-1")["snapshots"]] == [2]
    shoal("snapshot", "delete", "count-1")
    shoal("snapshot", "show", "count-1", code=4)


def test_a_deleted_stream_goes_on_with_its_numbers(shoal: Shell) -> None:
    shoal("delete", "count-1", "--expected-version", "3", code=3)
    shoal("delete", "count-1")
    shoal("read", "count-1", code=4)
    assert shoal.json("append", "count-1", "counted", "1", "--expected-version", "none")["version"] == 5
    shoal("delete", "count-1", "--hard", "--yes")
    shoal("append", "count-1", "counted", "1", code=4)


def test_the_same_event_id_again_is_told_and_stored_once(shoal: Shell) -> None:
    event = ("append", "s", "t", "1", "--event-id", "e-1")
    assert not shoal.json(*event)["duplicate"]
    assert shoal(*event).stdout == "s is at version 0, position 8 (already there)\n"
    shoal("append", "s", "t", "2", "--event-id", "e-1", code=3)


def test_binary_and_strange_text_do_not_reach_the_terminal(shoal: Shell) -> None:
    shoal("append", "odd\x1b[2Jid", "ty\x07pe", '"\\u001b[31m \x9b"')
    line = shoal("read", "odd\x1b[2Jid").stdout
    assert line.endswith('odd\\x1b[2Jid@0  ty\\x07pe  "\\u001b[31m \\x9b"\n')


def test_streams_whose_names_differ_by_a_line_break_are_told_apart(shoal: Shell) -> None:
    for stream_id in ("a b", "a\nb", "a\\nb"):
        shoal("append", stream_id, "t", "1")
    assert shoal("streams", "--prefix", "a").stdout.splitlines() == [
        "stream\tversion",
        "a\\nb\t0",
        "a b\t0",
        "a\\\\nb\t0",
    ]


def test_what_is_deleted_for_ever_is_never_said_to_be_deleted_softly(shoal: Shell) -> None:
    assert shoal.json("delete", "count-1")["deleted"] == "soft"
    assert shoal.json("delete", "count-1", "--hard", "--yes")["deleted"] == "hard"
    assert shoal.json("delete", "count-1")["deleted"] == "hard"
    assert shoal("delete", "count-1").stdout == "count-1 was deleted for ever before\n"
    assert shoal.json("delete", "never-there")["deleted"] == "soft"


@pytest.mark.parametrize("options", [(), ("--after", "0")])
def test_a_tail_of_a_stream_that_is_gone_for_ever_ends(shoal: Shell, options: tuple[str, ...]) -> None:
    shoal("delete", "count-1", "--hard", "--yes")
    assert "was deleted for ever" in shoal("tail", "count-1", *options, code=4).stderr
