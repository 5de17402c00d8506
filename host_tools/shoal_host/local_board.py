"""A board on this machine: `shoald` as a child, and its agent."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shoal.address import split_address
from shoal.errors import ConfigError, ShoalError, Unauthorized, Unavailable
from shoal_host.children import Child
from shoal_host.data_dir import in_use
from shoal_host.exits import ERROR, USAGE, Failure, exit_code
from shoal_host.own_token import OwnToken

if TYPE_CHECKING:
    import aiohttp

READY_S: Final = 60.0
STOP_S: Final = 20.0
_POLL_S: Final = 0.05
_ANSWER_S: Final = 1.0
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - addresses to ask, not to listen on


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A running `shoald`; `others` are addresses of boards that have the same store."""

    node_id: str
    url: str
    data_dir: Path
    child: Child
    token: OwnToken
    others: tuple[str, ...] = ()

    def fields(self) -> dict[str, object]:
        """As `shoal up --json` shows it."""
        return {
            "id": self.node_id,
            "url": self.url,
            "pid": self.child.process.pid,
            "data_dir": str(self.data_dir),
        }


class Died(Failure):
    """A child ended on its own; the detail ends with what it said last, in lines of their own."""

    code = "process-ended"
    title = "A process ended"

    def __init__(self, child: Child, code: int) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = "\n".join(f"  {line}" for line in child.last_lines) or "  (nothing)"
        super().__init__(f"{child.name} {how}; it said last:\n{said}", USAGE if code == USAGE else ERROR)


def require_free(listen: str, choose: str = "--listen {}") -> None:
    """Refuse an address that somebody listens on. Raises ConfigError, which says how to `choose` another."""
    try:
        host, port = split_address(listen)
    except ValueError as error:
        raise ConfigError("--listen", str(error)) from error
    if port == 0:
        raise ConfigError("--listen", "write a port from 1 to 65535, so that others can find the board")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError("--listen", _unusable(listen, port, error, choose)) from error


def _unusable(listen: str, port: int, error: OSError, choose: str) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"{listen} cannot be listened on: {error.strerror or error}"
    other = f"{listen.rpartition(':')[0]}:{port + 1 if port < 65_535 else port - 1}"
    return f"port {port} is taken, perhaps by another board: stop it, or choose another with {choose.format(other)}"


def require_unused(data_dir: Path) -> None:
    """Refuse a directory on which a `shoald` runs, before anything of it is touched. Raises ConfigError."""
    if in_use(data_dir):
        raise ConfigError("--data-dir", f"{data_dir} is in use by another shoald: stop it, or choose another")


async def start_node(
    data_dir: Path,
    listen: str,
    token: OwnToken,
    heard: Callable[[str], None],
    *,
    name: str = "shoald",
    options: Sequence[str] = (),
    alone: bool = True,
) -> LocalNode:
    """Start `shoald` and wait until it is ready; one that is not `alone` needs others for that, and only has to answer.

    Raises Died, Unavailable.
    """
    await asyncio.to_thread(token.begin)
    arguments = ["-m", "shoal", "--data-dir", str(data_dir), "--listen", listen, *options]
    child = await Child.start(name, arguments, heard=heard)
    host, _, port = listen.rpartition(":")
    url = f"http://{_EVERYWHERE.get(host, host)}:{port}"
    try:
        info = await _until_ready(child, url, token.text, "/readyz" if alone else "/livez")
    except Died as error:
        if (
            error.exit_code == ERROR and not options
        ):  # one of a cluster must not be opened as if it were alone
            error.exit_code = await _code_of_opening(data_dir)
        raise
    except BaseException:
        await child.stop(STOP_S)
        raise
    return LocalNode(info["node"]["node_id"], url, data_dir, child, token)


async def _code_of_opening(data_dir: Path) -> int:
    """The exit code for what keeps `shoald` from opening its directory, of which it only says that it failed.

    Opens it once more in this process, and so hears the error itself.
    """
    from shoal.__main__ import read_config
    from shoal.node import Node

    try:
        node = await Node.open(read_config({"data_dir": str(data_dir)}, os.environ))
    except ShoalError as error:
        return exit_code(error)
    except OSError:
        return ERROR
    await node.close()
    return ERROR


async def start_agent(node: LocalNode, interval_s: float, heard: Callable[[str], None]) -> Child:
    """Start the board agent beside `node`."""
    urls = " ".join((node.url, *node.others))
    arguments = ["-m", "shoal_device.agent", "--url", urls, "--node", node.node_id]
    environ = dict(os.environ) | ({"SHOAL_TOKEN": node.token.text} if node.token.text else {})
    return await Child.start(
        "board agent", [*arguments, "--interval", f"{interval_s:g}"], environ=environ, heard=heard
    )


async def info_of(node: LocalNode) -> dict[str, Any] | None:
    """What a board says of itself (`GET /v1/info`); None when it does not, within a second."""
    import aiohttp

    with suppress(TimeoutError, aiohttp.ClientError):
        async with (
            asyncio.timeout(_ANSWER_S),
            _session(node.token.text) as session,
            session.get(f"{node.url}/v1/info") as answer,
        ):
            if answer.status == 200:
                info: dict[str, Any] = await answer.json()
                return info
    return None


async def until_admitted(node: LocalNode) -> None:
    """Wait until the board has seen the token made for it: it looks at the file a few times a second."""
    import aiohttp

    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(READY_S), _session(node.token.text) as session:
            while await _status(session, f"{node.url}/v1/info") == 401:  # noqa: ASYNC110 - as in `_ask`
                await asyncio.sleep(_POLL_S)


async def _until_ready(child: Child, url: str, token: str | None, path: str) -> dict[str, Any]:
    ended = asyncio.create_task(child.ended())
    asking = asyncio.create_task(_ask(url, token, path))
    try:
        await asyncio.wait((ended, asking), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise Died(child, ended.result())
        if not asking.done():
            raise Unavailable(f"shoald was not ready within {READY_S:g} s; --logs shows what it does")
        return asking.result()
    finally:
        for task in (ended, asking):
            task.cancel()


async def _ask(url: str, token: str | None, path: str) -> dict[str, Any]:
    """Ask until `path` is answered with 200; the result is what the board says of itself."""
    async with _session(token) as session:
        while not await _is_good(session, f"{url}{path}"):  # noqa: ASYNC110 - another process has no event to wait on
            await asyncio.sleep(_POLL_S)
        async with session.get(f"{url}/v1/info") as answer:
            if answer.status != 200:
                raise Unauthorized(f"the board answers {answer.status}: SHOAL_TOKEN is not a token of it")
            info: dict[str, Any] = await answer.json()
            return info


async def _is_good(session: aiohttp.ClientSession, url: str) -> bool:
    import aiohttp

    try:
        return await _status(session, url) == 200
    except aiohttp.ClientError:
        return False


async def _status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        return answer.status


def _session(token: str | None) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"} if token else {})
