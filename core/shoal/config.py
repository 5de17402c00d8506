"""Configuration: command line over environment over TOML file over default, as one frozen value.

`CONFIGURATION` is the one list of all keys: parsing, `shoald --help` and the documents come from it.
A key `a.b` is `b` in the TOML table `[a]`, the environment variable `SHOAL_A_B` and, where `option`
says so, a command line option. Defaults stand in the structs. Nothing here reads a file or a clock.

An empty environment variable counts as not set. Unknown `SHOAL_...` variables are not refused, since
Kubernetes makes some of its own for a service named shoal; `unknown_variables` lists them for a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from shoal.converters import Converter, choice, matching, several, to_address, to_path, whole
from shoal.errors import ConfigError
from shoal.types import Limits

Mode = Literal["single", "cluster"]

DEFAULT_STORE: Final = "main"
CLUSTER_BODY_BYTES: Final = 24 * 1024 * 1024
"""The entry of an append must fit a frame between nodes, with what is in it beside."""
CONFIG_FILE_VARIABLE: Final = "SHOAL_CONFIG"
"""Names the TOML file, as `--config` does; reading it is the caller's work."""

_MIB: Final = 1024 * 1024
_DAY_MS: Final = 86_400_000
_STORE_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"


class StoreConfig(msgspec.Struct, frozen=True):
    """A store to have at start; None means the node's own value."""

    name: str
    data_dir: Path | None = None
    timeout_ms: int | None = None
    writer_pool_size: int | None = None
    reader_pool_size: int | None = None


class StoreSettings(msgspec.Struct, frozen=True):
    """What holds for one store once the node's values fill the gaps."""

    name: str
    data_dir: Path
    timeout_ms: int
    writer_pool_size: int
    reader_pool_size: int


class StorageConfig(msgspec.Struct, frozen=True):
    """Journal and database: the knobs for flash wear, memory and disk space."""

    segment_bytes: int = 16 * _MIB
    reserve_bytes: int = 32 * _MIB
    commit_rows: int = 5000
    commit_bytes: int = 8 * _MIB
    commit_interval_ms: int = 3_600_000
    cache_bytes: int = 8 * _MIB
    wal_limit_bytes: int = 64 * _MIB
    writer_queue_limit: int = 20_000
    witness_bytes: int = 1024 * _MIB


class HttpConfig(msgspec.Struct, frozen=True):
    """The HTTP server's deadlines and limits."""

    header_timeout_ms: int = 10_000
    body_timeout_ms: int = 30_000
    max_connections: int = 1024
    heartbeat_ms: int = 15_000
    max_stores: int = 64
    tls_cert: Path | None = None
    tls_key: Path | None = None


class DiscoveryConfig(msgspec.Struct, frozen=True):
    """How boards find each other; `methods` empty means not at all."""

    methods: tuple[str, ...] = ("multicast",)
    port: int = 45892
    multicast_addr: str = "239.255.0.1"
    interval_ms: int = 5000
    k8s_service: str | None = None
    secret: str | None = None
    secret_file: Path | None = None

    def __repr__(self) -> str:
        """Without the secret, for logs."""
        hidden = None if self.secret is None else "***"
        return f"DiscoveryConfig({self.methods}, {self.multicast_addr}:{self.port}, secret={hidden})"


class Config(msgspec.Struct, frozen=True):
    """All a node needs to know at start."""

    data_dir: Path = Path("shoal-data")
    listen: str = "127.0.0.1:4589"
    peer_listen: str | None = None
    node_id: str | None = None
    cluster_id: str | None = None
    mode: Mode = "single"
    bootstrap_expect: int | None = None
    seeds: tuple[str, ...] = ()
    timeout_ms: int = 5000
    writer_pool_size: int = 10
    reader_pool_size: int = 10
    telemetry_handlers: tuple[str, ...] = ("logger",)
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    tls_dir: Path | None = None
    join_token_file: Path | None = None
    stores: tuple[StoreConfig, ...] = (StoreConfig(DEFAULT_STORE),)
    storage: StorageConfig = StorageConfig()
    limits: Limits = Limits()
    http: HttpConfig = HttpConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()

    def store(self, name: str) -> StoreSettings:
        """The settings of store `name`, configured or made later."""
        own = next((store for store in self.stores if store.name == name), StoreConfig(name))
        return StoreSettings(
            name=name,
            data_dir=self.data_dir if own.data_dir is None else own.data_dir,
            timeout_ms=own.timeout_ms or self.timeout_ms,
            writer_pool_size=own.writer_pool_size or self.writer_pool_size,
            reader_pool_size=own.reader_pool_size or self.reader_pool_size,
        )

    @property
    def begins_with(self) -> int:
        """So many boards begin a cluster with this one among them; 0 when it waits to be added.

        Who knows of a cluster, by seeds or a join token, is not to begin another by mistake.
        """
        if self.bootstrap_expect is not None:
            return self.bootstrap_expect
        return 0 if self.seeds or self.join_token_file is not None else 1


def valid_store_name(name: str) -> bool:
    """Whether a store may have this name: 1 to 64 letters, digits, `_ . -`, not beginning with `.` or `-`."""
    return re.fullmatch(_STORE_NAME, name) is not None


class Key(msgspec.Struct, frozen=True):
    """One key of the configuration: `path` in TOML, what it takes, and what it does."""

    path: str
    convert: Converter
    doc: str
    option: str | None = None
    metavar: str = "N"
    alias: str | None = None

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "SHOAL_" + self.path.replace(".", "_").upper()

    @property
    def default(self) -> Any:
        """Its value when nobody says anything; for `store` the names of the stores."""
        value: Any = Config()
        if self.path == "store":
            return tuple(store.name for store in value.stores)
        for name in self.path.split("."):
            value = getattr(value, name)
        return value

    def from_text(self, text: str) -> Any:
        """A command line's or environment's text as TOML would have it: numbers, lists with commas."""
        if self.metavar == "N":
            return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text.strip()) else text
        if isinstance(self.default, tuple):
            return [part.strip() for part in text.split(",")]
        return text


_STORE = matching(_STORE_NAME, "1 to 64 letters, digits, '_', '.' or '-', not beginning with '.' or '-'")
_ID = matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "1 to 64 letters, digits, '.', '_' or '-'")
_GROUP = matching(
    r"2(2[4-9]|3[0-9])(\.(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}",
    "an IPv4 multicast address from 224.0.0.0 to 239.255.255.255",
)
_SECRET = matching(r".{16,}", "at least 16 characters, such as `openssl rand -hex 16` makes")
_MS = whole(1, _DAY_MS)
_POOL = whole(1, 256)
_BYTES = whole(64 * 1024, 2**40)
_COUNT = whole(1, 1_000_000)
_MODE = choice("single", "cluster")
_LEVEL = choice("debug", "info", "warning", "error")
_METHODS = several(choice("multicast", "mdns", "k8s", "static"))
_METHODS_DOC = "how boards of a cluster find each other: multicast, mdns, k8s, static, or none"
_SERVICE = matching(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", "the DNS name of a headless service")
_HANDLERS = several(choice("logger", "opentelemetry"))

CONFIGURATION: Final[tuple[Key, ...]] = (
    Key("data_dir", to_path, "where everything is kept", "--data-dir", "DIR"),
    Key("listen", to_address, "where HTTP listens; port 0 takes a free one", "--listen", "HOST:PORT"),
    Key("peer_listen", to_address, "where other boards reach this one", "--peer-listen", "HOST:PORT"),
    Key("node_id", _ID, "this board's name; made at the first start", "--node-id", "ID"),
    Key("cluster_id", _ID, "the cluster it is in; made at the first start", "--cluster-id", "ID"),
    Key("mode", _MODE, "one board alone, or one of a cluster", "--mode", "single|cluster"),
    Key(
        "bootstrap_expect",
        whole(0, 9),
        "boards that begin a cluster; 0 waits to be added. Left out it is 1, or 0 with seeds or a join token",
        "--bootstrap-expect",
    ),
    Key("seeds", several(to_address), "boards to ask first", "--seed", "HOST:PORT"),
    Key("timeout_ms", _MS, "how long a request may wait for the store", alias="timeout"),
    Key("writer_pool_size", _POOL, "writer partitions of a store; a stream always uses the same one"),
    Key("reader_pool_size", _POOL, "reads of a store that run at once"),
    Key("telemetry_handlers", _HANDLERS, "who hears telemetry: logger, opentelemetry", metavar="LIST"),
    Key("log_format", choice("text", "json"), "form of a log line", "--log-format", "text|json"),
    Key("log_level", _LEVEL, "least level that is logged", metavar="LEVEL"),
    Key("tls_dir", to_path, "this board's keys: ca.pem, cert.pem, key.pem", "--tls-dir", "DIR"),
    Key(
        "join_token_file",
        to_path,
        "file with a join token, for a board without keys; erased once it has them from a seed",
        "--join-token-file",
        "FILE",
    ),
    Key("store", several(_STORE), "stores to have, instead of the file's", "--store", "NAME"),
    Key("storage.segment_bytes", whole(64 * 1024, 2**30), "size of a journal segment"),
    Key("storage.reserve_bytes", whole(0, 2**40), "disk space kept for deletes when the disk is full"),
    Key("storage.commit_rows", _COUNT, "rows after which SQLite commits"),
    Key("storage.commit_bytes", _BYTES, "bytes after which SQLite commits"),
    Key("storage.commit_interval_ms", _MS, "time after which SQLite commits"),
    Key("storage.cache_bytes", _BYTES, "memory for pages of a store's database"),
    Key("storage.wal_limit_bytes", _BYTES, "size of SQLite's log at which it is checkpointed"),
    Key("storage.writer_queue_limit", _COUNT, "appends that may wait in a writer partition"),
    Key("storage.witness_bytes", _BYTES, "journal that a witness keeps at most, two segments at least"),
    Key("limits.body_bytes", whole(1024, 2**30), "bytes of a request's body"),
    Key("limits.event_bytes", whole(1, 2**30), "bytes of an event"),
    Key("limits.events_per_append", _COUNT, "events in an append"),
    Key("limits.page_events", _COUNT, "events in a page"),
    Key("limits.page_bytes", whole(1024, 2**30), "bytes of the events in a page"),
    Key("limits.stream_id_bytes", whole(1, 4096), "bytes of a stream id"),
    Key("limits.event_type_bytes", whole(1, 4096), "bytes of an event type"),
    Key("limits.event_id_bytes", whole(36, 4096), "bytes of an event id"),
    Key("limits.tags_per_event", whole(0, 10_000), "tags of an event"),
    Key("limits.tag_bytes", whole(1, 4096), "bytes of a tag"),
    Key("limits.depth", whole(1, 256), "depth of JSON and CBOR values"),
    Key("limits.query_items", whole(1, 10_000), "items in a query"),
    Key("limits.writes_per_append", whole(1, 10_000), "streams in one append"),
    Key("limits.subscriptions", whole(1, 100_000), "subscriptions of a store"),
    Key("limits.selector_bytes", whole(16, 1_000_000), "bytes of a subscription's selector"),
    Key("limits.subscription_name_bytes", whole(1, 256), "bytes of a subscription's name"),
    Key("http.header_timeout_ms", _MS, "how long a client may take for a request's head"),
    Key("http.body_timeout_ms", _MS, "how long a client may take for a request's body"),
    Key("http.max_connections", whole(1, 65_536), "connections at once"),
    Key("http.heartbeat_ms", _MS, "time between comments on a silent event stream"),
    Key("http.max_stores", whole(1, 1024), "stores of a node"),
    Key("http.tls_cert", to_path, "certificate chain (PEM)", metavar="FILE"),
    Key("http.tls_key", to_path, "the certificate's private key (PEM)", metavar="FILE"),
    Key("discovery.methods", _METHODS, _METHODS_DOC, "--discovery", "LIST", "discovery.method"),
    Key("discovery.port", whole(1, 65_535), "UDP port of beacons"),
    Key("discovery.multicast_addr", _GROUP, "multicast group of beacons", metavar="ADDRESS"),
    Key("discovery.interval_ms", whole(100, _DAY_MS), "time between beacons, and between looks"),
    Key("discovery.k8s_service", _SERVICE, "headless service that k8s asks the DNS for", metavar="NAME"),
    Key("discovery.secret", _SECRET, "key that signs the beacons; never sent", metavar="TEXT"),
    Key("discovery.secret_file", to_path, "file that holds the secret", "--secret-file", "FILE"),
)

_STORE_KEYS: Final[Mapping[str, Converter]] = {
    "name": _STORE,
    "data_dir": to_path,
    "mode": _MODE,
    "timeout_ms": _MS,
    "writer_pool_size": _POOL,
    "reader_pool_size": _POOL,
}
_STORE_ALIASES: Final = {"id": "name", "timeout": "timeout_ms"}
_BY_NAME: Final = {name: key for key in CONFIGURATION for name in (key.path, key.alias) if name}
_SECTIONS: Final = frozenset(key.path.split(".")[0] for key in CONFIGURATION if "." in key.path)
_OTHER_VARIABLES: Final = frozenset({CONFIG_FILE_VARIABLE, "SHOAL_URL", "SHOAL_TOKEN"})

Values = dict[str, Any]


# --- loading


def load(argv_values: Mapping[str, Any], environ: Mapping[str, str], toml_text: str | None) -> Config:
    """The configuration, checked as a whole. Raises ConfigError, which names the key, for anything else.

    `argv_values` is keyed by path (`data_dir`, `storage.commit_rows`) or nested (`{"storage": {...}}`); None
    means not given. Its texts are read as those of the environment are; values of the right type do as well.
    """
    table = _parse_toml(toml_text)
    tables = table.pop("stores", [])
    if "store" in table:
        raise ConfigError("store", "write each store as a table, beginning with [[stores]]")
    values = _converted(_flatten(table))
    values |= _converted(_from_environ(environ), from_environ=True)
    values |= _converted(_read_texts(_flatten(argv_values)))
    stores = _stores(tables, values.pop("store", None), values.get("mode", "single"))
    return _check(_build(values, stores))


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that begin with `SHOAL_` and mean nothing to shoald, for a warning."""
    known = {key.variable for key in CONFIGURATION} | _OTHER_VARIABLES
    return sorted(name for name in environ if name.startswith("SHOAL_") and name not in known)


def _parse_toml(toml_text: str | None) -> Values:
    if toml_text is None:
        return {}
    import tomllib

    try:
        return tomllib.loads(toml_text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("--config", f"the file is not valid TOML: {_one_line(str(error))}") from error


def _flatten(table: Mapping[str, Any]) -> Values:
    flat: Values = {}
    for name, value in table.items():
        if name not in _SECTIONS:
            flat[name] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": entry for inner, entry in value.items()}
        else:
            raise ConfigError(name, f"write a table, beginning with [{name}]")
    return {name: value for name, value in flat.items() if value is not None}


def _from_environ(environ: Mapping[str, str]) -> Values:
    given = {key: environ.get(key.variable, "") for key in CONFIGURATION}
    return {key.path: key.from_text(text) for key, text in given.items() if text}


def _read_texts(flat: Values) -> Values:
    texts = {name: value for name, value in flat.items() if name in _BY_NAME and isinstance(value, str)}
    return flat | {name: _BY_NAME[name].from_text(text) for name, text in texts.items()}


def _converted(flat: Values, *, from_environ: bool = False) -> Values:
    values: Values = {}
    for name, raw in flat.items():
        key = _BY_NAME.get(name)
        if key is None:
            raise ConfigError(_one_line(name), _unknown(name, _BY_NAME))
        if key.path in values:
            raise ConfigError(name, f"means the same as {key.path}, keep one of them")
        values[key.path] = _convert(key.variable if from_environ else name, key.convert, raw)
    return values


def _convert(label: str, convert: Converter, raw: Any) -> Any:
    try:
        return convert(raw)
    except ValueError as error:
        given = "" if "secret" in label.lower() else f", not {_one_line(repr(raw))}"
        raise ConfigError(label, f"{error}{given}") from error


def _stores(tables: Any, names: Sequence[str] | None, mode: str) -> tuple[StoreConfig, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("stores", "write each store as a table, beginning with [[stores]]")
    stores: dict[str, StoreConfig] = {}
    for index, table in enumerate(tables):
        store = _store(f"stores[{index}]", table, mode)
        if store.name in stores:
            raise ConfigError(f"stores[{index}].name", f"{store.name!r} is there twice, keep one of them")
        stores[store.name] = store
    if names is None:
        return tuple(stores.values()) or (StoreConfig(DEFAULT_STORE),)
    if not names:
        raise ConfigError("store", "name at least one store")
    return tuple(stores.get(name, StoreConfig(name)) for name in names)


def _store(label: str, table: Values, mode: str) -> StoreConfig:
    values: Values = {}
    for given, raw in table.items():
        name = _STORE_ALIASES.get(given, given)
        if name not in _STORE_KEYS:
            raise ConfigError(f"{label}.{_one_line(given)}", _unknown(given, _STORE_KEYS))
        if name in values:
            raise ConfigError(f"{label}.{given}", f"means the same as {name}, keep one of them")
        values[name] = _convert(f"{label}.{given}", _STORE_KEYS[name], raw)
    if "name" not in values:
        raise ConfigError(f"{label}.name", "give the store a name")
    if values.pop("mode", mode) != mode:
        raise ConfigError(f"{label}.mode", f"write {mode!r}, the mode of the node, or leave it out")
    return StoreConfig(**values)


def _build(values: Values, stores: tuple[StoreConfig, ...]) -> Config:
    parts: dict[str, Values] = {section: {} for section in ("", *_SECTIONS)}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        parts[section][name] = value
    tls_dir = parts[""].get("tls_dir")
    if tls_dir is not None and parts[""].get("mode") != "cluster":  # there they are for the other boards
        parts["http"] = {"tls_cert": tls_dir / "cert.pem", "tls_key": tls_dir / "key.pem"} | parts["http"]
    return Config(
        **parts[""],
        stores=stores,
        storage=StorageConfig(**parts["storage"]),
        limits=Limits(**parts["limits"]),
        http=HttpConfig(**parts["http"]),
        discovery=DiscoveryConfig(**parts["discovery"]),
    )


def _check(config: Config) -> Config:
    """Refuse what no single key shows to be wrong."""
    http, discovery, limits = config.http, config.discovery, config.limits
    in_cluster = config.mode == "cluster"
    secrets = [secret for secret in (discovery.secret, discovery.secret_file) if secret is not None]
    if config.bootstrap_expect not in {None, 1} and not in_cluster:
        raise ConfigError("bootstrap_expect", 'set mode to "cluster", or leave it out')
    if config.join_token_file is not None and not in_cluster:
        raise ConfigError("join_token_file", 'set mode to "cluster", or leave it out')
    if config.seeds and not in_cluster:
        raise ConfigError("seeds", 'set mode to "cluster", or leave them out')
    if (http.tls_cert is None) != (http.tls_key is None):
        missing = "http.tls_cert" if http.tls_cert is None else "http.tls_key"
        raise ConfigError(missing, "give both, the certificate and its key")
    if limits.event_bytes > limits.body_bytes:
        raise ConfigError("limits.event_bytes", f"write at most limits.body_bytes, {limits.body_bytes}")
    if len(secrets) > 1:
        raise ConfigError("discovery.secret", "is also given by discovery.secret_file, keep one of them")
    if in_cluster and "multicast" in discovery.methods and not secrets:
        raise ConfigError("discovery.secret", "set it or discovery.secret_file, or discovery.methods to none")
    if in_cluster and "k8s" in discovery.methods and discovery.k8s_service is None:
        raise ConfigError(
            "discovery.k8s_service", "name the headless service of the boards, or leave k8s out"
        )
    if in_cluster and limits.body_bytes > CLUSTER_BODY_BYTES:
        raise ConfigError(
            "limits.body_bytes", f"write at most {CLUSTER_BODY_BYTES} in a cluster: an append is one frame"
        )
    if len(config.stores) > http.max_stores:
        raise ConfigError("http.max_stores", f"write at least {len(config.stores)}, the stores configured")
    return config


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    import difflib

    close = difflib.get_close_matches(name[:80], known, n=1)
    return f"is not known, did you mean {close[0]}?" if close else "is not known, remove it"


def _one_line(text: str) -> str:
    """A text from outside, fit to be shown."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else text[:77] + "..."
