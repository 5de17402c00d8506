"""How `shoal` refuses: always short, as JSON where that was asked for, and in the words of who typed it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Recorder, run
from click.testing import CliRunner

from shoal import errors
from shoal_host.exits import advice, visible
from shoal_host.group import main
from shoal_host.json_text import read_json
from shoal_host.local_board import require_free


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("read", "s", "--count", "0", "--json"), "usage-error"),
        (("read", "s", "--json", "--nope"), "usage-error"),
        (("nothing", "--json"), "usage-error"),
        (("--nope", "streams", "--json"), "usage-error"),
        (("bench", "--nope", "--json"), "usage-error"),
        (("append", "s", "t", "--json"), "usage-error"),
        (("append", "s", "t", "{", "--json"), "invalid-request"),
        (("up", "--listen", "127.0.0.1:0", "--json"), "config-error"),
    ],
)
def test_with_json_bad_usage_is_a_json_document_too(arguments: tuple[str, ...], code: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    error: dict[str, Any] = json.loads(result.stderr)["error"]
    assert (error["code"], error["outcome"], bool(error["detail"])) == (code, "not-applied", True)


def test_what_only_looks_like_the_option_is_an_operand() -> None:
    result = run("append", "s", "t", "--", "--json")
    assert result.exit_code == 2
    assert result.stderr.startswith("shoal: DATA is not acceptable as JSON")


def test_with_json_what_the_system_refuses_is_a_json_document(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("tokens", "create", "--role", "read", "--data-dir", str(tmp_path / "file" / "x"), "--json")
    assert result.exit_code in {1, 2}
    assert json.loads(result.stderr)["error"]["detail"]


def test_ctrl_c_while_the_command_is_still_being_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "shoal_host.cli", "streams"]
    ended = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


@pytest.mark.parametrize("arguments", [("streams",), ("append", "s", "t", "1"), ("up", "--agent")])
def test_a_token_that_cannot_be_sent_is_refused_in_one_line(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = {"SHOAL_TOKEN": "a\nb", "SHOAL_LISTEN": f"127.0.0.1:{port}", "SHOAL_DATA_DIR": str(tmp_path)}
    result = CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "cannot be sent" in result.stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [("127.0.0.1:4601", "write http://127.0.0.1:4601"), ("http://a:1,http://b:2", "repeat --url")],
)
def test_what_is_no_address_yet_is_told_how_to_become_one(url: str, says: str) -> None:
    result = run("streams", "--url", url)
    assert result.exit_code == 2
    assert says in result.stderr


def test_several_boards_are_named_as_the_help_says() -> None:
    assert "Repeat it for several" in " ".join(run("streams", "--help").stdout.split())
    store = Recorder()
    run("append", "s", "t", "1", "--url", "http://a:1", "--url", "http://b:2", store=store)
    assert store.targets[0].urls == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("read", ""), "STREAM"),
        (("append", "s", "t", "1", "--tag", ""), "--tag"),
        (("append", "s", "", "1"), "TYPE"),
        (("append", "s", "t", "1", "--event-id", ""), "--event-id"),
        (("query", "--type", ""), "--type"),
        (("tail", "--pattern", ""), "--pattern"),
        (("snapshot", "list", ""), "STREAM"),
        (("streams", "--store", ""), "--store"),
    ],
)
def test_an_empty_name_is_refused_by_what_was_typed(arguments: tuple[str, ...], named: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "must not be empty" in result.stderr


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "NaN", "[Infinity]", '"\\ud800"', "1e999"])
@pytest.mark.parametrize(
    "command",
    [
        ("append", "s", "t"),
        ("append", "s", "t", "1", "--metadata"),
        ("snapshot", "save", "s", "0"),
        ("query", "--query"),
    ],
    ids=" ".join,
)
def test_json_is_read_as_strictly_as_over_http(command: tuple[str, ...], text: str) -> None:
    result = run(*command, text)
    assert result.exit_code == 2
    assert "not acceptable as JSON" in result.stderr


@pytest.mark.parametrize("line", [b'{"a": 1, "a": 2}', b'{"event_type": "t", "data": {"a": 1, "a": 2}}'])
def test_lines_are_read_as_strictly(line: bytes) -> None:
    store = Recorder()
    for event_type in (("t", "-"), ("-",)):
        result = run("append", "s", *event_type, store=store, stdin=line)
        assert (result.exit_code, "line 1" in result.stderr) == (2, True)
        assert "the key 'a' twice" in result.stderr
    assert store.appends == []


def test_bytes_of_the_command_line_that_are_no_text_are_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="DATA is not acceptable as JSON: not UTF-8"):
        read_json(os.fsdecode(b'"\xff"'), "DATA")


def test_a_taken_port_is_refused_in_the_words_of_make_where_make_called() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("up", "--from-make", "--listen", f"127.0.0.1:{port}")
        assert result.exit_code == 2
        assert "make run ARGS='--listen 127.0.0.1:" in result.stderr
        with pytest.raises(errors.ConfigError, match=r"another with --listen 127\.0\.0\.1:"):
            require_free(f"127.0.0.1:{port}")


def test_a_missing_subscription_is_told_where_to_look_and_other_things_are_not() -> None:
    missing = errors.NotFound("subscription 's' does not exist", subscription="s")
    assert advice(missing) == "`shoal subscription list` lists those there are"
    assert not advice(errors.NotFound("there is no store 's'"))


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_bench_takes_help_as_all_others_do(option: str) -> None:
    result = run("bench", option)
    assert (result.exit_code, "--quick" in result.stdout) == (0, True)


def test_no_two_names_look_alike() -> None:
    names = ["a b", "a\nb", "a\\nb", "a\tb", "a\\\\nb", "a\u2028b", "a\xa0b", "a\x00b", "a\r\nb"]
    shown = [visible(name) for name in names]
    assert len(set(shown)) == len(names)
    assert "".join(shown).isprintable()
    assert visible("käse/1") == "käse/1"
