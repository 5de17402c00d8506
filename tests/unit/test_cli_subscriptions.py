"""`shoal subscribe` and `shoal subscription`, on a store of files: what they do and what they print."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import shoal as package
from shoal_host.commands import subscribe as module
from shoal_host.group import main
from shoal_host.options import Environment


class Shell:
    """Calls `shoal` on the store of one directory, which is opened and closed for each call."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *arguments: str, stdin: str | None = None, code: int = 0) -> Result:
        environment = Environment(connect=lambda target: package.open("main", self.directory))
        result = CliRunner().invoke(main, arguments, obj=environment, input=stdin, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def events(self, *arguments: str) -> list[Any]:
        return [json.loads(line) for line in self(*arguments, "--json").stdout.splitlines()]


@pytest.fixture
def shoal(tmp_path: Path) -> Shell:
    """Positions 1 to 4 in stream a, 5 and 6 in stream b; 2 and 4 are odd, 5 and 6 are odd and rare."""
    shell = Shell(tmp_path / "data")
    for number in range(4):
        shell("append", "a", "counted", f'{{"n": {number}}}', *(["--tag", "odd"] if number % 2 else []))
    for number in range(2):
        shell("append", "b", "rang", f'{{"n": {number}}}', "--tag", "odd", "--tag", "rare")
    return shell


def test_what_was_shown_is_acked_and_the_next_call_goes_on(shoal: Shell) -> None:
    lines = shoal("subscribe", "sub", "a", "--count", "3").stdout.splitlines()
    assert [line.split("  ")[1:] for line in lines] == [
        ["a@0", "counted", '{"n":0}'],
        ["a@1", "counted", '{"n":1}'],
        ["a@2", "counted", '{"n":2}'],
    ]
    (event,) = shoal.events("subscribe", "sub", "--count", "1")
    assert (event["position"], event["attempt"], event["data"]) == (4, 1, {"n": 3})
    assert event["lease"]
    assert shoal.json("subscription", "show", "sub")["checkpoint"] == 6


def test_no_ack_only_looks(shoal: Shell) -> None:
    for _ in range(2):
        assert [e["position"] for e in shoal.events("subscribe", "sub", "a", "--no-ack", "--count", "2")] == [
            1,
            2,
        ]


def test_what_a_broken_pipe_did_not_take_comes_again(shoal: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    def show(event: Any, *, as_json: bool) -> None:
        if len(shown) == 2:
            raise BrokenPipeError
        shown.append(event.position)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_show", show)
        patch.setattr("shoal_host.group._forget_stdout", lambda: None)
        shoal("subscribe", "sub", "a")
    assert [e["position"] for e in shoal.events("subscribe", "sub", "--count", "2")] == [3, 4]


@pytest.mark.parametrize(
    ("selection", "positions", "kind"),
    [
        (["--all"], [1, 2, 3, 4, 5, 6], "all"),
        (["--event-type", "rang", "--event-type", "never"], [5, 6], "event_type"),
        (["--pattern", "a*"], [1, 2, 3, 4], "event_pattern"),
        (["--payload", '{"n": {"$gte": 1}}'], [2, 3, 4, 6], "event_payload"),
        (["--tag", "odd", "--tag", "rare"], [2, 4, 5, 6], "tags"),
        (["--tag", "odd", "--tag", "rare", "--all-tags"], [5, 6], "tags"),
    ],
)
def test_each_kind_of_selection(shoal: Shell, selection: list[str], positions: list[int], kind: str) -> None:
    events = shoal.events("subscribe", "sub", *selection, "--count", str(len(positions)))
    assert [event["position"] for event in events] == positions
    assert shoal.json("subscription", "show", "sub")["type"] == kind


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["new"], "no subscription 'new' yet: say what it selects"),
        (["new", "a", "--all"], "selects by one kind"),
        (["new", "a", "--all-tags"], "--all-tags is about --tag"),
        (["new", "a", "--from", "then"], "not beginning, end or a position"),
        (["new", "--payload", "{"], "--payload is"),
        (["new", "--payload", '{"n": {"$near": 1}}'], "$near"),
        (["new", "a", "--strategy", "random"], "strategy"),
    ],
)
def test_bad_usage_makes_nothing_and_says_what_to_write(
    shoal: Shell, arguments: list[str], says: str
) -> None:
    assert says in shoal("subscribe", *arguments, code=2).stderr
    assert shoal.json("subscription", "list") == {"subscriptions": []}


def test_options_are_those_of_the_subscription_and_another_definition_is_a_conflict(shoal: Shell) -> None:
    options = ["--from", "2", "--ordered", "--strategy", "by_stream", "--max-in-flight", "7"]
    shoal("subscribe", "sub", "a", *options, "--ack-timeout-ms", "900", "--max-retries", "1", "--count", "1")
    found = shoal.json("subscription", "show", "sub")
    assert (found["start_from"], found["ordered"], found["strategy"]) == (2, True, "by_stream")
    assert (found["max_in_flight"], found["ack_timeout_ms"], found["max_retries"]) == (7, 900, 1)
    assert "another selector" in shoal("subscribe", "sub", "b", code=3).stderr


def test_looking_after_subscriptions(shoal: Shell) -> None:
    shoal("subscribe", "alarms", "--event-type", "rang", "--count", "1")
    assert shoal("subscription", "list").stdout.splitlines() == [
        "name\ttype\tselector\tcheckpoint",
        "alarms\tevent_type\trang\t5",
    ]
    shown = shoal("subscription", "show", "alarms").stdout
    assert "lag\t1\n" in shown
    assert "max_retries\t10\n" in shown
    text = shoal(
        "subscription", "set", "alarms", "max_retries=2", "backoff_ms=[1, 2]", "strategy=by_stream"
    ).stdout
    assert text == "alarms: max_retries is 2, backoff_ms is [1,2], strategy is by_stream\n"
    assert shoal.json("subscription", "set", "alarms", "ordered=true")["ordered"] is True
    assert shoal("subscription", "reset", "alarms", "beginning").stdout == "alarms goes on after position 0\n"
    assert shoal("subscription", "delete", "alarms").stdout == "deleted the subscription alarms\n"
    for call in (["show"], ["delete"], ["parked"], ["replay"]):
        assert "alarms" in shoal("subscription", *call, "alarms", code=4).stderr
    assert "OPTION=VALUE" in shoal("subscription", "set", "alarms", "ordered", code=2).stderr


def test_streams_whose_names_differ_by_a_line_break_are_told_apart(shoal: Shell) -> None:
    for name, stream_id in (("one", "x y"), ("two", "x\ny")):
        shoal("append", stream_id, "t", "1")
        shoal("subscribe", name, stream_id, "--count", "1")
    assert [line.split("\t")[2] for line in shoal("subscription", "list").stdout.splitlines()[1:]] == [
        "x y",
        "x\\ny",
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["max_retires=3"], "max_retries"),
        (["ordered"], "OPTION=VALUE"),
        (["name=other"], "one of the options"),
        (["self=1"], "one of the options"),
        (["ordered=true", "ordered=false"], "twice"),
        (["ordered=true", "max_retries=many"], "max_retries"),
    ],
)
def test_what_cannot_be_set_is_bad_usage_and_changes_nothing(
    shoal: Shell, settings: list[str], says: str
) -> None:
    shoal("subscribe", "alarms", "--all", "--count", "1")
    before = shoal.json("subscription", "show", "alarms")
    assert says in shoal("subscription", "set", "alarms", *settings, code=2).stderr
    assert shoal.json("subscription", "show", "alarms") | {"stats": 0} == before | {"stats": 0}


async def _park(directory: Path) -> None:
    async with package.open("main", directory) as store:
        await store.subscriptions.create("stream", "b", "sub")
        for event in await store.subscriptions.pull("sub"):
            await store.subscriptions.nack("sub", [event.lease], "park", reason="too\nloud")


def test_parked_events_are_listed_and_replayed(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell("append", "b", "rang", "1")
    shell("append", "b", "rang", "2")
    asyncio.run(_park(tmp_path))
    lines = shell("subscription", "parked", "sub").stdout.splitlines()
    assert lines[0] == "position\ttime\tevent\tattempts\treason\tdata"
    assert [line.split("\t")[2:] for line in lines[1:]] == [
        ["b@0", "1", "too loud", "1"],
        ["b@1", "1", "too loud", "2"],
    ]
    assert shell("subscription", "parked", "sub", "--limit", "1").stderr == "there are more: --after 1\n"
    assert shell("subscription", "parked", "sub").stderr == ""
    page = shell.json("subscription", "parked", "sub", "--limit", "1")
    assert (page["events"][0]["reason"], page["next"]) == ("too\nloud", 1)
    replayed = shell("subscription", "replay", "sub", "--limit", "1")
    assert replayed.stdout == "1 parked event of sub is delivered again\n"
    listed = shell("subscription", "parked", "sub")
    assert "too loud (delivered again)" in listed.stdout
    (event,) = shell.events("subscribe", "sub", "--count", "1")
    assert (event["version"], event["attempt"]) == (0, 2)
    assert shell.json("subscription", "replay", "sub") == {"replayed": 1}
