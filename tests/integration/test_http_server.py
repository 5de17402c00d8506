"""The process `shoald`: it says when it is ready, leaves cleanly, and explains in three lines why it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import shoal
from shoal.__main__ import main, parser
from shoal.address import is_loopback
from shoal.config import CONFIGURATION
from shoal.tokens import TokenFile

EVENTS = [{"event_type": "t", "data": 1}]


async def start(*arguments: str, environ: Mapping[str, str] | None = None) -> Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal", *arguments, stdout=PIPE, stderr=PIPE, env={**clean, **(environ or {})}
    )


@asynccontextmanager
async def running(
    *arguments: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Process, str]]:
    """A process and the first line that it printed."""
    process = await start(*arguments, environ=environ)
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        if not line:
            raise AssertionError((await process.communicate())[1].decode())
        yield process, line
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def failed(*arguments: str) -> tuple[int | None, list[str]]:
    """Exit code and stderr's lines of a process that does not start."""
    process = await start(*arguments)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, errors.decode().splitlines()


def here(tmp_path: Path) -> tuple[str, ...]:
    return "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"


async def test_it_needs_no_option_but_where_and_says_when_it_is_ready(tmp_path: Path) -> None:
    async with running(*here(tmp_path)) as (process, line):
        words = line.split()
        assert words[:3] == ["shoald", "ready", "on"]
        assert words[4:] == ["store", "main", "data", str(tmp_path / "data")]
        async with aiohttp.ClientSession() as session, session.get(f"{words[3]}/readyz") as answer:
            assert answer.status == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_the_ready_line_and_the_log_are_json_when_asked_for(tmp_path: Path) -> None:
    arguments = (*here(tmp_path), "--log-format", "json", "--store", "a", "--store", "b")
    async with running(*arguments) as (process, line):
        ready = json.loads(line)
        assert ready["ready"] is True
        assert ready["stores"] == ["a", "b"]
        process.send_signal(signal.SIGINT)
        _, log = await asyncio.wait_for(process.communicate(), 20)
        lines = [json.loads(each) for each in log.decode().splitlines()]
        assert {"level", "logger", "message", "time"} <= lines[-1].keys()
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_leaving_finishes_what_is_under_way(tmp_path: Path, number: int) -> None:
    """A body that is still arriving is waited for and its append answered; idle connections and tails just end."""
    async with running(*here(tmp_path)) as (process, line):
        host, port = line.split()[3].removeprefix("http://").split(":")
        async with aiohttp.ClientSession() as session:
            url = f"http://{host}:{port}"
            tail = await session.get(f"{url}/v1/events", headers={"Accept": "text/event-stream"})
            idle, idle_writer = await asyncio.open_connection(host, int(port))
            reader, writer = await asyncio.open_connection(host, int(port))
            body = json.dumps(EVENTS).encode()
            head = (
                "POST /v1/streams/s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body[:5])
            await reader.readuntil(b"100 Continue\r\n\r\n")
            process.send_signal(number)
            assert await asyncio.wait_for(idle.read(), 10) == b""
            await asyncio.wait_for(tail.content.read(), 10)
            with pytest.raises(OSError, match=r"refused|Connect"):
                await asyncio.open_connection(host, int(port))
            writer.write(body[5:])
            assert b" 201 " in await asyncio.wait_for(reader.readline(), 10)
            for each in (writer, idle_writer):
                each.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    async with (
        running(*here(tmp_path)) as (_, line),
        aiohttp.ClientSession() as session,
        session.get(f"{line.split()[3]}/v1/streams/s/0") as answer,
    ):
        assert answer.status == 200


async def test_an_idle_node_stays_below_60_mb(tmp_path: Path) -> None:
    async with running(*here(tmp_path)) as (process, line):
        url = line.split()[3]
        async with aiohttp.ClientSession() as session:
            for _ in range(20):
                async with session.post(f"{url}/v1/streams/s", json=EVENTS) as answer:
                    assert answer.status == 201
        fields = dict(
            each.split(":", 1) for each in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
        assert int(fields["VmRSS"].split()[0]) < 60_000


async def test_a_second_process_on_the_data_is_refused(tmp_path: Path) -> None:
    async with running(*here(tmp_path)):
        code, lines = await failed(*here(tmp_path))
    assert (code, len(lines)) == (2, 1)
    assert "another process" in lines[0]
    assert "--data-dir" in lines[0]


async def test_a_port_in_use_is_refused_before_any_file_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        code, lines = await failed("--data-dir", str(tmp_path / "data"), "--listen", listen)
    assert (code, len(lines)) == (2, 1)
    assert listen in lines[0]
    assert not (tmp_path / "data").exists()


BAD: list[tuple[tuple[str, ...], str]] = [
    (("--listen", "nonsense"), "listen"),
    (("--listen", "192.0.2.1:4589"), "listen"),
    (("--listen", "0.0.0.0:0"), "tokens"),
    (("--config", "/nowhere/shoal.toml"), "/nowhere/shoal.toml"),
    (("--mode", "sharded"), "mode"),
    (("--tls-dir", "/nowhere"), "tls"),
    (("--node-id", "a b"), "node_id"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD)
async def test_bad_configuration_is_a_few_lines_that_name_the_key(
    tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    code, lines = await failed("--data-dir", str(tmp_path / "data"), *arguments)
    assert code == 2
    assert 1 <= len(lines) <= 3
    assert word in "\n".join(lines)
    assert not (tmp_path / "data").exists()


async def test_a_bad_file_names_its_key(tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text("[http]\nmax_connections = 0\n")
    code, lines = await failed("--config", str(file))
    assert (code, len(lines)) == (2, 1)
    assert "http.max_connections" in lines[0]


async def test_a_data_directory_that_cannot_be_used_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    code, lines = await failed(*here(tmp_path))
    assert code in {1, 2}
    assert len(lines) == 1
    assert str(tmp_path / "data") in lines[0]


async def test_others_may_come_once_there_is_a_token(tmp_path: Path) -> None:
    token = await asyncio.to_thread(TokenFile(tmp_path / "data").add, "read")
    async with running("--data-dir", str(tmp_path / "data"), "--listen", "0.0.0.0:0") as (_, line):
        url = f"http://127.0.0.1:{line.split()[3].rpartition(':')[2]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/v1/info") as answer:
                assert answer.status == 401
            async with session.get(f"{url}/v1/info", headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == 200


async def test_tls_with_a_given_certificate(tmp_path: Path) -> None:
    import ssl

    openssl = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"),
        "-out", str(tmp_path / "cert.pem"), stderr=PIPE,
    )  # fmt: skip
    await openssl.communicate()
    async with running(*here(tmp_path), "--tls-dir", str(tmp_path)) as (_, line):
        url = line.split()[3]
        assert url.startswith("https://")
        trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        async with aiohttp.ClientSession() as session, session.get(f"{url}/livez", ssl=trust) as answer:
            assert answer.status == 200


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for key in CONFIGURATION:
        if key.option is not None:
            assert key.option in text
    assert "--config" in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--version"])
    assert capsys.readouterr().out.strip() == f"shoald {shoal.__version__}"


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_only_loopback_counts_as_alone(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_an_unknown_variable_is_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not keep the board from starting: something else may have set it."""
    monkeypatch.setenv("SHOAL_NONSENSE", "1")
    ran: list[Any] = []
    monkeypatch.setattr("shoal.server.run", lambda config: ran.append(config) or 0)
    assert main(["--data-dir", str(tmp_path)]) == 0
    assert "SHOAL_NONSENSE" in capsys.readouterr().err
    assert ran[0].data_dir == tmp_path
