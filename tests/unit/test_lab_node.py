"""A node of the lab: its detours, its disk, and that it is `shoald` in all else."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys

import pytest

from shoal_host.lab.node import DetouringLoop, detour


def test_a_detour_is_two_addresses() -> None:
    assert detour("127.0.0.1:1=[::1]:2") == (("127.0.0.1", 1), ("::1", 2))
    for text in ("127.0.0.1:1", "127.0.0.1:1=nonsense"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            detour(text)


async def echo(reader, writer) -> None:
    writer.write(await reader.read(100))
    writer.close()


async def ask(address) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"who")
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def test_only_the_addresses_named_are_dialled_by_another() -> None:
    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        real = server.sockets[0].getsockname()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DetouringLoop)
        loop._detours = {("127.0.0.1", 1): real}
        assert await ask(("127.0.0.1", 1)) == b"who"
        assert await ask(real) == b"who"
        with pytest.raises(ConnectionRefusedError):
            await ask(("127.0.0.1", 2))
        server.close()

    with asyncio.Runner(loop_factory=lambda: DetouringLoop({})) as runner:
        runner.run(run())


def test_tls_by_a_detour_still_asks_for_the_name_that_was_dialled(monkeypatch) -> None:
    names = []

    async def create_connection(self, factory, host=None, port=None, **options):
        names.append((host, port, options.get("server_hostname")))
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_connection", create_connection)

    async def run() -> None:
        context = ssl.create_default_context()
        for name in (None, "n2"):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", 1, ssl=context, server_hostname=name)

    with asyncio.Runner(loop_factory=lambda: DetouringLoop({("127.0.0.1", 1): ("127.0.0.1", 9)})) as runner:
        runner.run(run())
    assert names == [("127.0.0.1", 9, "127.0.0.1"), ("127.0.0.1", 9, "n2")]


def ended(faults, *options: str) -> subprocess.CompletedProcess[str]:
    """A node that ends by itself: not in this process, since it ties itself to its parent."""
    command = [sys.executable, "-m", "shoal_host.lab.node", "--faults", str(faults), "--", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_bad_options_of_shoald_are_told_as_shoald_does(tmp_path) -> None:
    node = ended(tmp_path / "faults.json", "--listen", "nonsense")
    assert node.returncode == 2
    assert "shoald: listen: write HOST:PORT" in node.stderr


def test_a_disk_that_fails_ends_the_node(tmp_path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('{"fails": {"sync_data": "EIO"}}')
    node = ended(faults, "--data-dir", str(tmp_path / "n1"), "--listen", "127.0.0.1:0")
    assert node.returncode == 1
    assert "as told to" in node.stderr
