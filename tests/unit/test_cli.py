"""The command line without a board: help, parsing, exit codes, what is printed, and processes it starts."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cli_kit import Recorder, run

from shoal import errors
from shoal.types import Event, NewEvent
from shoal_host.children import Child
from shoal_host.exits import exit_code, one_line
from shoal_host.group import main
from shoal_host.local_board import Died, require_free
from shoal_host.options import Target
from shoal_host.progress import LongWork
from shoal_host.reading_line import human_bytes, reading_line


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands below `shoal`, groups left out, with their names."""
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), main)]
    while waiting:
        names, command = waiting.pop()
        if not isinstance(command, click.Group):
            yield names, command
            continue
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            waiting.append(((*names, name), below))


COMMANDS = dict(commands())


def examples(command: click.Command) -> list[str]:
    """The lines of the command's examples."""
    _, found, text = (command.epilog or "").partition("Example")
    return [line.strip() for line in text.splitlines()[1:] if line.strip()] if found else []


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_help_for_itself_and_for_each_option(names: tuple[str, ...]) -> None:
    command = COMMANDS[names]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    assert names == ("bench",) or run(*names, "--help").exit_code == 0


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_with_options_it_knows(names: tuple[str, ...]) -> None:
    lines = examples(COMMANDS[names])
    assert any(line.startswith(" ".join(("shoal", *names))) for line in lines)
    known = {text for parameter in COMMANDS[names].params for text in parameter.opts}
    for line in lines:
        words = shlex.split(line.replace("$(", " ").replace(")", " ").split(" | jq")[0])
        assert {word for word in words if word.startswith("--")} <= known | {"--json"}, line


def _all_errors(kind: type[errors.ShoalError] = errors.ShoalError) -> Iterator[type[errors.ShoalError]]:
    if kind.__module__ == errors.__name__:
        yield kind
        for below in kind.__subclasses__():
            yield from _all_errors(below)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.WrongExpectedVersion("s", -1, 3), 3),
        (errors.ConditionFailed(7), 3),
        (errors.EventIdReused("s", "e"), 3),
        (errors.LeaseExpired("the lease is over", leases=["l"]), 3),
        (errors.StreamNotFound("s"), 4),
        (errors.StreamTombstoned("s"), 4),
        (errors.NotFound("there is no store 'x'"), 4),
        (errors.InvalidRequest("bad", pointer="/events"), 2),
        (errors.ConfigError("listen", "bad"), 2),
        (errors.Unreachable("no board answered"), 5),
        (errors.Timeout("no answer in time"), 5),
        (errors.DiskFull(), 5),
        (errors.Unauthorized(), 6),
        (errors.Forbidden(), 6),
        (errors.JournalCorrupt("segment 3"), 7),
        (errors.InternalError(), 1),
    ],
)
def test_errors_end_with_the_documented_exit_code_and_one_line(error: errors.ShoalError, code: int) -> None:
    result = run("append", "s", "t", "1", store=Recorder(error))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert str(error) in result.stderr


def test_no_error_of_the_tree_ends_with_success() -> None:
    kinds = list(_all_errors())
    assert len(kinds) > 25
    for kind in kinds:
        assert exit_code(kind.__new__(kind)) > 0, kind


def test_an_unknown_outcome_is_told() -> None:
    lost = errors.Timeout("no answer in time", outcome="unknown")
    result = run("append", "s", "t", "1", store=Recorder(lost))
    assert (result.exit_code, "look before you do it again" in result.stderr) == (5, True)
    lost = errors.OutcomeUnknown("no answer in time", event_ids=["e-1"])
    result = run("append", "s", "t", "1", store=Recorder(lost))
    assert "or send it with --event-id e-1" in result.stderr
    lost = errors.OutcomeUnknown("no answer in time", event_ids=["e-1", "e-2"])
    assert "--event-id" not in run("append", "s", "t", "1", store=Recorder(lost)).stderr


def test_an_error_with_json_is_a_json_document() -> None:
    result = run("append", "s", "t", "1", "--json", store=Recorder(errors.WrongExpectedVersion("s", -1, 3)))
    fields = json.loads(result.stderr)["error"]
    assert (fields["code"], fields["expected_version"], fields["actual_version"]) == (
        "wrong-expected-version",
        -1,
        3,
    )


def test_what_a_store_sends_cannot_command_the_terminal() -> None:
    assert one_line("a\x1b[31mb\nc\u202e\x9b") == r"a\x1b[31mb c\u202e\x9b"
    result = run("append", "s", "t", "1", store=Recorder(errors.InternalError("\x1b]0;owned\x07\nmore")))
    assert "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_append_sends_one_event_with_everything_given() -> None:
    store = Recorder()
    options = ("--expected-version", "none", "--event-id", "e1", "--tag", "a", "--tag", "b")
    result = run("append", "s", "t", '{"n": 1}', *options, "--metadata", '{"m": 2}', store=store)
    assert result.output == "s is at version 0, position 1\n"
    assert store.appends == [("s", -1, [NewEvent("t", {"n": 1}, {"m": 2}, ["a", "b"], "e1")])]


def test_the_store_comes_from_options_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Recorder()
    run("append", "s", "t", "1", store=store)
    monkeypatch.setenv("SHOAL_URL", "http://a:1 http://b:2")
    monkeypatch.setenv("SHOAL_TOKEN", "secret")
    run("append", "s", "t", "1", "--store", "other", store=store)
    assert store.targets == [
        Target(("http://127.0.0.1:4589",), None, "main"),
        Target(("http://a:1", "http://b:2"), "secret", "other"),
    ]


def test_append_reads_the_data_of_events_from_standard_input() -> None:
    store = Recorder()
    lines = "".join(f'{{"n": {n}}}\n' for n in range(5)) + "\n" + '{"n": 5}'
    result = run(
        "append",
        "s",
        "t",
        "-",
        "--batch",
        "2",
        "--expected-version",
        "none",
        "--json",
        store=store,
        stdin=lines,
    )
    assert json.loads(result.stdout)["events"] == 6
    assert [[event.data["n"] for event in events] for _, _, events in store.appends] == [
        [0, 1],
        [2, 3],
        [4],
        [5],
    ]
    assert [expected for _, expected, _ in store.appends] == [-1, 1, 3, 4]


def test_append_reads_whole_events_from_standard_input() -> None:
    store = Recorder()
    run(
        "append",
        "s",
        "-",
        store=store,
        stdin='{"event_type": "a", "data": 1, "event_id": "e", "tags": ["x"]}\n',
    )
    assert store.appends == [("s", -2, [NewEvent("a", 1, None, ["x"], "e")])]


def test_nothing_on_standard_input_is_nothing_to_append() -> None:
    store = Recorder()
    result = run("append", "s", "t", "-", store=store, stdin="\n\n")
    assert (result.exit_code, result.output, store.appends) == (0, "nothing to append\n", [])


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("append", "s", "t"), None, "give DATA as JSON"),
        (("append", "s", "t", "plain"), None, "DATA is not acceptable as JSON"),
        (("append", "s", "t", "[" * 5000), None, "DATA is not acceptable as JSON"),
        (("append", "s", "t", "1", "--metadata", "[1]"), None, "must be a JSON object"),
        (
            ("append", "s", "t", "1", "--expected-version", "-3"),
            None,
            "is not any, none, exists or a version",
        ),
        (("append", "s", "t", "1", "--expected-version", str(2**53)), None, "is not any, none, exists"),
        (("append", "s", "t", "-"), "1\n{\n", "line 2 is not acceptable as JSON"),
        (("append", "s", "t", "-"), b"\xff\xfe\n", "line 1 is not acceptable as JSON"),
        (("append", "s", "-"), '{"event_type": "a"}\n', "line 1 is not an event"),
        (("append", "s", "-"), '{"event_type": "a", "data": 1, "other": 2}\n', "other"),
        (("append", "s", "t", "-", "--event-id", "e"), "1\n", "put ids into the lines"),
        (("query", "--query", '{"items": [{"typos": []}]}'), None, "--query must be"),
        (("query", "--query", '{"items": []}', "--type", "t"), None, "or leave it out"),
        (("tail", "s", "--type", "t"), None, "not both"),
        (("read", "s", "--count", "0"), None, "--count"),
        (("delete", "s", "--hard"), None, "say --yes"),
        (("up", "--nodes", "3", "--listen", "127.0.0.1:65500"), None, "write a port up to"),
        (("up", "--listen", "nowhere"), None, "HOST:PORT"),
        (("up", "--listen", "127.0.0.1:0"), None, "from 1 to 65535"),
        (("nothing",), None, "No such command"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_to_write(
    arguments: tuple[str, ...], stdin: str | bytes | None, says: str
) -> None:
    store = Recorder()
    result = run(*arguments, store=store, stdin=stdin)
    assert result.exit_code == 2
    assert says in result.stderr
    assert store.appends == []


def test_a_bad_line_says_how_many_events_came_before_it() -> None:
    """Lines are appended as they come: here the last one, without an end of line, comes after the first."""
    store = Recorder()
    result = run("append", "s", "t", "-", store=store, stdin="1\n{")
    assert result.exit_code == 2
    assert "1 event was appended before this" in result.stderr
    assert len(store.appends) == 1


def test_tokens_are_made_listed_and_revoked(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path), "--json")
    made = json.loads(run("tokens", "create", "--role", "append", "--stream", "board-*", *where).stdout)
    assert made["token"].startswith("shoal_")
    listed = json.loads(run("tokens", "list", *where).stdout)["tokens"]
    assert [(token["id"], token["role"], token["streams"]) for token in listed] == [
        (made["id"], "append", ["board-*"])
    ]
    assert made["token"] not in (tmp_path / "tokens.json").read_text()
    assert run("tokens", "revoke", made["id"], *where).exit_code == 0
    assert json.loads(run("tokens", "list", *where).stdout) == {"tokens": []}
    assert run("tokens", "revoke", made["id"], *where).exit_code == 4


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("tokens", "create", "--role", "read", "--data-dir", str(tmp_path / "file" / "below"))
    assert result.exit_code in {1, 2}
    assert result.stderr.count("\n") == 1


def test_a_new_token_is_alone_on_standard_output(tmp_path: Path) -> None:
    result = run("tokens", "create", "--role", "admin", "--data-dir", str(tmp_path))
    assert result.stdout.startswith("shoal_")
    assert result.stdout.count("\n") == 1
    assert "only this once" in result.stderr


def test_a_reading_is_one_short_line() -> None:
    data = {
        "cpu_percent": 7.3,
        "load_1m": 0.25,
        "memory_used_percent": 41.2,
        "disks": {"/": {"used_percent": 12.0}, "/data": {"used_percent": 80.0}},
        "network_received_bytes": {"$sum": 1500},
        "network_sent_bytes": {"$sum": 12},
        "temperatures_celsius": {"cpu": 51.5},
        "processes": 101,
    }
    event = Event("board-x", 4, 9, "id", "board_measured", 1_700_000_000_000_000, json.dumps(data).encode())
    line = reading_line(event)
    assert line.split("  ")[1:] == [
        "#4",
        "cpu 7 %",
        "load 0.25",
        "memory 41 %",
        "disk /data 80 %",
        "net in 1.5 kB out 12 B",
        "52 °C",
        "101 processes",
    ]
    assert len(line) < 120


def test_a_reading_without_fields_is_still_a_line() -> None:
    event = Event("board-x", 0, 1, "id", "board_measured", 1_700_000_000_000_000, b"[]")
    assert reading_line(event).endswith("#0")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (25_000_000, "25 MB"), (3e15, "3000 TB")],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_a_taken_port_is_refused_with_another_to_choose() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(errors.ConfigError, match=f"port {port} is taken.*--listen 127.0.0.1:"):
            require_free(f"127.0.0.1:{port}")


def test_progress_stays_silent_when_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([0.0, 5.0, 6.0])
    with LongWork("reading", monotonic=lambda: next(moments)) as work:
        work.advance(3)
        work.advance(4)
    assert work.done == 7
    assert capsys.readouterr().err == ""


async def test_a_child_is_heard_and_stopped() -> None:
    lines: list[str] = []
    ready = asyncio.Event()

    def heard(line: str) -> None:
        lines.append(line)
        ready.set()

    script = "import sys, signal; print('ready', file=sys.stderr, flush=True); signal.pause()"
    child = await Child.start("sleeper", ["-c", script], heard=heard)
    await asyncio.wait_for(ready.wait(), 10)
    assert child.running
    await child.stop(grace_s=10)
    assert (lines, await child.ended()) == (["ready"], -signal.SIGTERM)


async def test_a_child_that_will_not_go_is_killed() -> None:
    lines: list[str] = []
    ready = asyncio.Event()

    def heard(line: str) -> None:
        lines.append(line)
        ready.set()

    script = (
        "import sys, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', file=sys.stderr, flush=True)\nwhile True: signal.pause()"
    )
    child = await Child.start("stubborn", ["-c", script], heard=heard)
    await asyncio.wait_for(ready.wait(), 10)
    await child.stop(grace_s=0.05)
    assert await child.ended() == -signal.SIGKILL
    assert "was killed" in lines[-1]


async def test_a_child_that_dies_is_reported_with_its_last_words() -> None:
    child = await Child.start("node", ["-c", "import sys; sys.exit('journal is damaged')"], heard=str)
    error = Died(child, await child.ended())
    assert str(error) == "node ended with exit code 1; it said last:\n  journal is damaged"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_ends_with_a_parent_that_was_killed() -> None:
    """`kill -9` of who started it leaves no orphan."""
    script = """
import asyncio, os, signal
from shoal_host.children import Child

async def main():
    child = await Child.start("sleeper", ["-c", "import signal; signal.pause()"], heard=str)
    print(child.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        parent.kill()
    try:
        assert select.select([handle], [], [], 10)[0], "the child outlived its parent"
    finally:
        os.close(handle)
