"""`shoald`: the composition root. The only module that knows every other.

The order of starting, each for a reason: the port first, since taking it costs nothing and touches no
file; then the node, which locks and recovers the data; then HTTP begins to listen, and the ready line
is printed. Leaving goes backwards: no new connections, the answers under way, the tails, the node.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shoal import telemetry
from shoal.address import is_loopback, join_address, split_address
from shoal.clock import Clock, SystemClock
from shoal.config import Config
from shoal.errors import AlreadyExists, ConfigError, DataDirLocked, ShoalError
from shoal.http import Connections, Service
from shoal.node import Means, Node
from shoal.supervisor import Supervisor
from shoal.tokens import TokenFile

if TYPE_CHECKING:
    from shoal.cluster_node import ClusterNode
    from shoal.otel import Export

DRAIN_S: Final = 10.0
"""How long answers under way may take once the node is leaving."""
PEER_CONNECTIONS: Final = 4096
"""Over which other members pass requests on."""
OTHER_FILES: Final = 256
"""File descriptors beside those of connections: journal, databases, readers."""

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

_log = logging.getLogger(__name__)


class Shoald:
    """One running node with its HTTP. Use as `async with`. The lab gives it `means` of its own."""

    def __init__(self, config: Config, means: Means | None = None) -> None:
        self._config = config
        self._means = means
        self._stack = AsyncExitStack()
        self._cluster: ClusterNode | None = None
        self._never = asyncio.Event()
        self.urls: list[str] = []

    async def __aenter__(self) -> Shoald:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        config, stack = self._config, self._stack
        tokens = TokenFile(config.data_dir)
        await asyncio.to_thread(require_tokens, config, tokens)
        tls = await asyncio.to_thread(tls_context, config)
        others = PEER_CONNECTIONS if config.mode == "cluster" else 0
        allow_connections(config.http.max_connections + others)
        listener = await self._bind(tls)
        stack.callback(listener.close)
        clock = SystemClock()
        await self._open_node(clock)
        for note in self._node.notes:
            _log.warning("%s", note)
        self._service = Service(
            self._node,
            config,
            tokens,
            now_ms=lambda: clock.wall().epoch_us // 1000,
            cluster=self._cluster,
        )
        self._attach_telemetry()
        self._supervisor = await stack.enter_async_context(Supervisor(clock=clock))
        self._connections = Connections(
            self._service.handle,
            limit=config.http.max_connections,
            header_timeout_s=config.http.header_timeout_ms / 1000,
        )
        if self._cluster is not None:
            self._make_passing(self._cluster)
        stack.push_async_callback(self._drain, listener)
        await listener.start_serving()
        scheme = "http" if tls is None else "https"
        self.urls = [f"{scheme}://{_shown(sock)}" for sock in listener.sockets]
        if self._cluster is not None:
            await self._join_others(self._cluster, clock)

    async def _open_node(self, clock: Clock) -> None:
        """The node alone, or the node in its cluster."""
        config, means = self._config, self._means
        if config.mode == "cluster":
            from shoal.cluster_node import ClusterNode  # a board alone needs no TLS between nodes

            self._cluster = await self._stack.enter_async_context(
                await ClusterNode.open(config, means=means, clock=clock)
            )
            self._node = self._cluster.node
        else:
            self._node = await self._stack.enter_async_context(
                await Node.open(config, means=means, clock=clock)
            )

    async def _bind(self, tls: ssl.SSLContext | None) -> asyncio.Server:
        host, port = split_address(self._config.listen)
        try:
            return await asyncio.get_running_loop().create_server(
                lambda: self._connections(),  # noqa: PLW0108 - made after the port is taken
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self._config.http.header_timeout_ms / 1000,
                backlog=1024,
                start_serving=False,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            advice = "another process uses the port" if error.errno == errno.EADDRINUSE else reason
            raise ConfigError("listen", f"cannot listen on {self._config.listen}: {advice}") from error

    def _attach_telemetry(self) -> None:
        """Handlers as configured, and the metrics."""
        if "logger" in self._config.telemetry_handlers:
            with suppress(AlreadyExists):  # whoever embeds this server attached it
                telemetry.attach_default_handler()
                self._stack.callback(_quietly, telemetry.detach_default_handler)
        if "opentelemetry" in self._config.telemetry_handlers:
            from shoal.otel import attach_opentelemetry

            export: Export = attach_opentelemetry(self._node.info()["node_id"])
            self._stack.push_async_callback(asyncio.to_thread, export.close)
        metrics = self._service.context.metrics
        metrics.attach()
        self._stack.callback(_quietly, metrics.detach)

    def _make_passing(self, cluster: ClusterNode) -> None:
        """What only the leader answers goes to it, and is taken from the others. Drained after the own clients."""
        from shoal.http.passing import Passing

        passing = self._service.context.passing = Passing(cluster)
        self._stack.push_async_callback(passing.close)
        passed = Connections(
            self._service.handle_passed,
            limit=PEER_CONNECTIONS,
            header_timeout_s=self._config.http.header_timeout_ms / 1000,
        )
        self._stack.push_async_callback(passed.drain, DRAIN_S)
        cluster.peer_http = passed

    async def _join_others(self, cluster: ClusterNode, clock: Clock) -> None:
        """Listen for peers, tell other boards of this one and hear of them."""
        from shoal.cluster.addresses import reachable_urls
        from shoal.cluster.beacon import Beacon
        from shoal.cluster.discovery import Discovery, read_secret
        from shoal.cluster.known_peers import next_boot

        config, info = self._config, self._node.info()
        await cluster.start([url for told in self.urls for url in reachable_urls(told)])
        own = Beacon(
            cluster_id=info["cluster_id"],
            node_id=info["node_id"],
            addresses=cluster.members.addresses,
            boot_counter=await asyncio.to_thread(next_boot, config.data_dir),
            sequence=0,
        )
        secret = await asyncio.to_thread(read_secret, config.discovery)
        discovery = Discovery(config, own, secret, clock)
        cluster.hints = discovery.addresses
        cluster.on_member = discovery.remember
        self._service.context.peers = lambda: msgspec.to_builtins(discovery.peers())
        self._supervisor.start("discovery", discovery.run)

    async def _drain(self, listener: asyncio.Server) -> None:
        """Take no more connections, finish the answers under way, end the tails."""
        listener.close()
        self._service.context.closing.set()
        await self._connections.drain(DRAIN_S)

    @property
    def must_reopen(self) -> asyncio.Event:
        """Set when the node is to be closed and opened again; see ClusterNode."""
        return self._never if self._cluster is None else self._cluster.must_reopen

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` or `must_reopen` is set. Raises what made the node or a critical task fail."""
        stopping = asyncio.create_task(stop.wait())
        reopening = asyncio.create_task(self.must_reopen.wait())
        failing: set[asyncio.Future[Any]] = {self._node.failed, self._supervisor.failed}
        try:
            await asyncio.wait({stopping, reopening, *failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            reopening.cancel()
        for future in failing:
            if future.done():
                future.result()

    def ready_line(self) -> str:
        """What is printed once HTTP answers."""
        stores = sorted(self._node.stores)
        data_dir = str(self._config.data_dir)
        if self._config.log_format == "json":
            line = {"ready": True, "urls": self.urls, "stores": stores, "data_dir": data_dir}
            return msgspec.json.encode(line).decode()
        shown = data_dir if data_dir.startswith(("/", ".")) else f"./{data_dir}"
        return f"shoald ready on {' '.join(self.urls)} store {' '.join(stores) or '(none yet)'} data {shown}"


async def serve(config: Config, ready: Callable[[str], None] = print, *, means: Means | None = None) -> None:
    """Run a node until SIGTERM or SIGINT; a second signal ends it at once. Raises ShoalError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def leave() -> None:
        _log.info("leaving: finishing what is under way")
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    if config.join_token_file is not None and config.tls_dir is not None:
        from shoal.cluster.enrolment import enrol_at_first_start

        token_file, seeds = config.join_token_file, config.seeds
        await enrol_at_first_start(config.tls_dir, token_file, seeds, config.node_id, stop=stop)
    while not stop.is_set():
        async with Shoald(config, means) as shoald:
            ready(shoald.ready_line())
            sys.stdout.flush()
            await shoald.run(stop)


def run(
    config: Config,
    *,
    means: Means | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """`serve` on a loop of its own; the result is the exit code. Errors go to stderr, in three lines at most."""
    configure_logging(config)
    try:
        with asyncio.Runner(loop_factory=loop_factory or _loop_factory()) as runner:
            runner.run(serve(config, means=means))
    except (ConfigError, DataDirLocked) as error:
        sys.stderr.write(f"shoald: {error}\n")
        return EXIT_USAGE
    except (ShoalError, OSError) as error:
        sys.stderr.write(f"shoald: {error}\n")
        return EXIT_FAILED
    return EXIT_OK


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    with suppress(ImportError):
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return None


def require_tokens(config: Config, tokens: TokenFile) -> None:
    """Refuse to be reachable by others without a token. Raises ConfigError."""
    host, _ = split_address(config.listen)
    if not is_loopback(host) and not tokens.tokens():
        raise ConfigError(
            "listen",
            f"{config.listen} can be reached by others, and there are no tokens.\n"
            f"Make one: shoal tokens create --role admin --data-dir {config.data_dir}\n"
            "Or listen on 127.0.0.1, where no token is needed.",
        )


def tls_context(config: Config) -> ssl.SSLContext | None:
    """The given certificate and key; None without. Raises ConfigError."""
    http = config.http
    if http.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(http.tls_cert, http.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "http.tls_cert", f"{http.tls_cert} and {http.tls_key} are not a certificate and its key: {error}"
        ) from error
    return context


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files, as far as it may, to hold `count` connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            _log.warning("only %d files may be open: fewer than http.max_connections=%d needs", most, count)


def configure_logging(config: Config) -> None:
    """Log lines on stderr, as text or JSON."""
    handler = logging.StreamHandler()
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {"telemetry": values} if (values := getattr(record, "telemetry", None)) else {}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


def _quietly(detach: Callable[[], None]) -> None:
    """Detach a handler that may be gone already: one that failed was detached and reported."""
    with suppress(ShoalError):
        detach()


def _shown(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return join_address(host, port)
