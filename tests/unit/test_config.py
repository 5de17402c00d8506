"""Configuration: where values come from, which win, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.address import split_address
from shoal.config import (
    CONFIGURATION,
    Config,
    HttpConfig,
    StoreConfig,
    StoreSettings,
    load,
    unknown_variables,
    valid_store_name,
)
from shoal.errors import ConfigError

SECRET = "correct horse battery"

# Every key: as TOML has it, as text has it, and the value it gives. Each differs from the default.
SAMPLES: dict[str, tuple[str, str, Any]] = {
    "data_dir": ('"/data"', "/data", Path("/data")),
    "listen": ('"0.0.0.0:0"', "0.0.0.0:0", "0.0.0.0:0"),
    "peer_listen": ('"[::1]:4590"', "[::1]:4590", "[::1]:4590"),
    "node_id": ('"board-1"', "board-1", "board-1"),
    "cluster_id": ('"reef"', "reef", "reef"),
    "mode": ('"cluster"', "cluster", "cluster"),
    "bootstrap_expect": ("1", "1", 1),
    "seeds": ('["a:1", "b:2"]', "a:1, b:2", ("a:1", "b:2")),
    "timeout_ms": ("7000", "7000", 7000),
    "writer_pool_size": ("3", "3", 3),
    "reader_pool_size": ("4", "4", 4),
    "telemetry_handlers": (
        '["logger", "opentelemetry"]',
        "logger,opentelemetry",
        ("logger", "opentelemetry"),
    ),
    "log_format": ('"json"', "json", "json"),
    "log_level": ('"debug"', "debug", "debug"),
    "tls_dir": ('"/tls"', "/tls", Path("/tls")),
    "join_token_file": ('"/token"', "/token", Path("/token")),
    "storage.segment_bytes": ("65536", "65536", 65536),
    "storage.reserve_bytes": ("0", "0", 0),
    "storage.commit_rows": ("10", "10", 10),
    "storage.commit_bytes": ("100000", "100000", 100_000),
    "storage.commit_interval_ms": ("1000", "1000", 1000),
    "storage.cache_bytes": ("1_000_000", "1000000", 1_000_000),
    "storage.wal_limit_bytes": ("1000000", "1000000", 1_000_000),
    "storage.writer_queue_limit": ("5", "5", 5),
    "storage.witness_bytes": ("1_000_000", "1000000", 1_000_000),
    "limits.body_bytes": ("5000000", "5000000", 5_000_000),
    "limits.event_bytes": ("1000", "1000", 1000),
    "limits.events_per_append": ("20", "20", 20),
    "limits.page_events": ("30", "30", 30),
    "limits.page_bytes": ("2048", "2048", 2048),
    "limits.stream_id_bytes": ("100", "100", 100),
    "limits.event_type_bytes": ("101", "101", 101),
    "limits.event_id_bytes": ("64", "64", 64),
    "limits.tags_per_event": ("0", "0", 0),
    "limits.tag_bytes": ("16", "16", 16),
    "limits.depth": ("8", "8", 8),
    "limits.query_items": ("9", "9", 9),
    "limits.writes_per_append": ("2", "2", 2),
    "limits.subscriptions": ("3", "3", 3),
    "limits.selector_bytes": ("100", "100", 100),
    "limits.subscription_name_bytes": ("50", "50", 50),
    "http.header_timeout_ms": ("100", "100", 100),
    "http.body_timeout_ms": ("200", "200", 200),
    "http.max_connections": ("10", "10", 10),
    "http.heartbeat_ms": ("300", "300", 300),
    "http.max_stores": ("2", "2", 2),
    "http.tls_cert": ('"c.pem"', "c.pem", Path("c.pem")),
    "http.tls_key": ('"k.pem"', "k.pem", Path("k.pem")),
    "discovery.methods": ('["static"]', "static", ("static",)),
    "discovery.port": ("5000", "5000", 5000),
    "discovery.multicast_addr": ('"239.1.2.3"', "239.1.2.3", "239.1.2.3"),
    "discovery.interval_ms": ("1000", "1000", 1000),
    "discovery.k8s_service": ('"shoal.default.svc"', "shoal.default.svc", "shoal.default.svc"),
    "discovery.secret": (f'"{SECRET}"', SECRET, SECRET),
    "discovery.secret_file": ('"/secret"', "/secret", Path("/secret")),
}
# What a key cannot do without, so that it can be tried alone.
COMPANIONS: dict[str, dict[str, Any]] = {
    "mode": {"discovery": {"secret": SECRET}},
    "join_token_file": {"mode": "cluster", "tls_dir": "/tls", "discovery": {"secret": SECRET}},
    "seeds": {"mode": "cluster", "discovery": {"secret": SECRET}},
    "http.tls_cert": {"http": {"tls_key": "k.pem"}},
    "http.tls_key": {"http": {"tls_cert": "c.pem"}},
}


def value_at(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def toml_for(path: str, text: str) -> str:
    section, _, name = path.rpartition(".")
    return f"[{section}]\n{name} = {text}\n" if section else f"{name} = {text}\n"


def failure(**given: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(given.get("argv", {}), given.get("environ", {}), given.get("toml"))
    return caught.value


class TestSources:
    """Where a value comes from."""

    def test_samples_cover_every_key(self) -> None:
        assert set(SAMPLES) == {key.path for key in CONFIGURATION} - {"store"}

    def test_every_field_of_the_configuration_has_a_key(self) -> None:
        fields = []
        for field in msgspec.structs.fields(Config):
            inner = getattr(Config(), field.name)
            names = msgspec.structs.fields(inner) if isinstance(inner, msgspec.Struct) else []
            fields += [f"{field.name}.{name.name}" for name in names] or [field.name]
        assert sorted(fields) == sorted([*SAMPLES, "stores"])

    @pytest.mark.parametrize("path", SAMPLES)
    def test_every_key_is_read_from_the_file(self, path: str) -> None:
        text, _, expected = SAMPLES[path]
        assert value_at(load(COMPANIONS.get(path, {}), {}, toml_for(path, text)), path) == expected

    @pytest.mark.parametrize("path", SAMPLES)
    def test_every_key_is_read_from_the_environment(self, path: str) -> None:
        key = next(key for key in CONFIGURATION if key.path == path)
        _, text, expected = SAMPLES[path]
        assert value_at(load(COMPANIONS.get(path, {}), {key.variable: text}, None), path) == expected

    @pytest.mark.parametrize("path", SAMPLES)
    def test_every_key_is_read_from_the_command_line(self, path: str) -> None:
        _, text, expected = SAMPLES[path]
        assert value_at(load({**COMPANIONS.get(path, {}), path: text}, {}, None), path) == expected

    @pytest.mark.parametrize("path", SAMPLES)
    def test_samples_differ_from_the_defaults(self, path: str) -> None:
        assert SAMPLES[path][2] != value_at(Config(), path)

    @pytest.mark.parametrize(
        ("given", "begins_with"),
        [
            ({}, 1),
            ({"seeds": ["a:1"]}, 0),
            ({"join_token_file": "token"}, 0),
            ({"seeds": ["a:1"], "bootstrap_expect": 1}, 1),
            ({"bootstrap_expect": 0}, 0),
        ],
    )
    def test_who_knows_of_a_cluster_begins_no_other_unless_told_so(
        self, given: dict[str, Any], begins_with: int
    ) -> None:
        values = {"mode": "cluster", "discovery.methods": ["static"], "tls_dir": "tls", **given}
        assert load(values, {}, None).begins_with == begins_with

    def test_nothing_given_is_the_default(self) -> None:
        assert load({}, {}, None) == load({}, {}, "") == Config()

    def test_documented_defaults_are_the_defaults(self) -> None:
        for key in CONFIGURATION:
            assert key.default == (("main",) if key.path == "store" else value_at(Config(), key.path))
            assert key.doc
            assert key.convert(key.default) == key.default if key.default is not None else True

    def test_command_line_beats_environment_beats_file(self) -> None:
        toml, environ, argv = "timeout_ms = 1\n", {"SHOAL_TIMEOUT_MS": "2"}, {"timeout_ms": "3"}
        found = [load({}, {}, toml), load({}, environ, toml), load(argv, environ, toml)]
        assert [config.timeout_ms for config in found] == [1, 2, 3]

    def test_a_section_is_merged_key_by_key(self) -> None:
        config = load(
            {"http": {"max_stores": 3}}, {"SHOAL_HTTP_HEARTBEAT_MS": "5"}, "[http]\nmax_connections = 7\n"
        )
        assert config.http == HttpConfig(max_stores=3, heartbeat_ms=5, max_connections=7)

    def test_none_on_the_command_line_is_not_given(self) -> None:
        assert load({"data_dir": None, "discovery": {"secret": None}}, {}, None) == Config()

    def test_an_empty_variable_is_not_given(self) -> None:
        assert load({}, {"SHOAL_NODE_ID": "", "SHOAL_TIMEOUT_MS": ""}, None) == Config()

    def test_values_of_the_right_type_do_on_the_command_line(self) -> None:
        config = load({"data_dir": Path("x"), "timeout_ms": 9, "telemetry_handlers": ()}, {}, None)
        assert (config.data_dir, config.timeout_ms, config.telemetry_handlers) == (Path("x"), 9, ())

    def test_unknown_variables_are_reported_not_refused(self) -> None:
        environ = {"SHOAL_DATADIR": "x", "SHOAL_PORT": "tcp://10.0.0.1", "SHOAL_TOKEN": "t", "PATH": "/bin"}
        assert load({}, environ, None) == Config()
        assert unknown_variables(environ) == ["SHOAL_DATADIR", "SHOAL_PORT"]


class TestReferenceKeys:
    """Every key of the reference's README has one here."""

    def test_a_configuration_as_the_reference_has_it(self) -> None:
        config = load(
            {},
            {},
            f"""
            mode = "cluster"
            telemetry_handlers = ["logger"]
            writer_pool_size = 11
            reader_pool_size = 12

            [[stores]]
            id = "my_store"
            data_dir = "/var/lib/my_store"
            mode = "cluster"
            timeout = 6000

            [[stores]]
            name = "other"
            writer_pool_size = 2
            reader_pool_size = 3

            [discovery]
            method = "multicast"
            port = 45892
            multicast_addr = "239.255.0.1"
            secret = "{SECRET}"
            """,
        )
        assert config.store("my_store") == StoreSettings("my_store", Path("/var/lib/my_store"), 6000, 11, 12)
        assert config.store("other") == StoreSettings("other", Path("shoal-data"), 5000, 2, 3)
        assert config.telemetry_handlers == ("logger",)
        discovery = config.discovery
        assert (discovery.methods, discovery.port, discovery.multicast_addr, discovery.secret) == (
            ("multicast",),
            45892,
            "239.255.0.1",
            SECRET,
        )


class TestStores:
    """The stores to have at start."""

    def test_without_any_there_is_main(self) -> None:
        assert load({}, {}, None).stores == (StoreConfig("main"),)

    def test_the_command_line_chooses_and_keeps_what_the_file_says_of_them(self) -> None:
        toml = '[[stores]]\nname = "a"\ntimeout_ms = 7\n[[stores]]\nname = "b"\n'
        stores = load({"store": ["c", "a"]}, {}, toml).stores
        assert stores == (StoreConfig("c"), StoreConfig("a", timeout_ms=7))

    def test_the_environment_names_them_with_commas(self) -> None:
        assert load({}, {"SHOAL_STORE": "a, b"}, None).stores == (StoreConfig("a"), StoreConfig("b"))

    def test_a_store_made_later_has_the_nodes_settings(self) -> None:
        assert Config().store("later") == StoreSettings("later", Path("shoal-data"), 5000, 10, 10)

    @pytest.mark.parametrize(
        ("toml", "key"),
        [
            ('[[stores]]\nname = "a"\n[[stores]]\nname = "a"\n', "stores[1].name"),
            ("[[stores]]\ntimeout_ms = 1\n", "stores[0].name"),
            ('[[stores]]\nname = "../x"\n', "stores[0].name"),
            ('[[stores]]\nname = "a"\nid = "a"\n', "stores[0].id"),
            ('[[stores]]\nname = "a"\nmode = "cluster"\n', "stores[0].mode"),
            ('[[stores]]\nname = "a"\ncolour = "red"\n', "stores[0].colour"),
            ('[[stores]]\nname = "a"\nwriter_pool_size = 0\n', "stores[0].writer_pool_size"),
            ("stores = 3\n", "stores"),
            ("stores = [3]\n", "stores"),
            ('[stores]\nname = "a"\n', "stores"),
            ('store = "a"\n', "store"),
        ],
    )
    def test_a_wrong_table_is_named(self, toml: str, key: str) -> None:
        assert failure(toml=toml).key == key

    def test_more_stores_than_allowed_are_refused(self) -> None:
        assert failure(argv={"store": ["a", "b"], "http": {"max_stores": 1}}).key == "http.max_stores"

    @pytest.mark.parametrize("name", ["main", "my_store", "a.b-c", "_x", "A" * 64])
    def test_names_that_are_fine(self, name: str) -> None:
        assert valid_store_name(name)

    @pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "é", "A" * 65, "a\n", "a\0"])
    def test_names_that_are_not(self, name: str) -> None:
        assert not valid_store_name(name)


class TestErrors:
    """A wrong value is one line that names the key and says what to write."""

    @pytest.mark.parametrize(
        ("toml", "key", "says"),
        [
            ('listn = "a:1"', "listn", "did you mean listen?"),
            ("[storage]\nsegment_byte = 5", "storage.segment_byte", "did you mean storage.segment_bytes?"),
            ("zzz = 1", "zzz", "remove it"),
            ("storage = 5", "storage", "[storage]"),
            ('listen = "4589"', "listen", "HOST:PORT"),
            ('listen = "::1:4589"', "listen", "brackets"),
            ('listen = "a:65536"', "listen", "65535"),
            ('writer_pool_size = "10"', "writer_pool_size", "from 1 to 256"),
            ("writer_pool_size = true", "writer_pool_size", "from 1 to 256"),
            ("writer_pool_size = 1.5", "writer_pool_size", "from 1 to 256"),
            ("writer_pool_size = 0", "writer_pool_size", "from 1 to 256"),
            ("timeout = 0", "timeout", "whole number"),
            ("timeout = 1\ntimeout_ms = 1", "timeout_ms", "keep one"),
            ('mode = "both"', "mode", "single, cluster"),
            ("mode = 1", "mode", "single, cluster"),
            ('data_dir = ""', "data_dir", "not empty"),
            ('data_dir = "a\\u0000b"', "data_dir", "control characters"),
            ('data_dir = "~/x"', "data_dir", "'~'"),
            ("data_dir = 3", "data_dir", "text"),
            ('telemetry_handlers = ["loger"]', "telemetry_handlers", "logger"),
            ('node_id = "a b"', "node_id", "letters"),
            ("bootstrap_expect = 3", "bootstrap_expect", "cluster"),
            ('seeds = ["a:1"]', "seeds", "cluster"),
            ('mode = "cluster"', "discovery.secret", "discovery.secret_file"),
            ('mode = "cluster"\n[discovery]\nmethods = ["k8s"]', "discovery.k8s_service", "headless service"),
            ('[discovery]\nk8s_service = "-x"', "discovery.k8s_service", "DNS name"),
            ("[discovery]\nmethods = [[]]", "discovery.methods", "multicast"),
            ('[discovery]\nmulticast_addr = "10.0.0.1"', "discovery.multicast_addr", "224.0.0.0"),
            ('[discovery]\nmulticast_addr = "239.0.0.256"', "discovery.multicast_addr", "224.0.0.0"),
            (f'[discovery]\nsecret = "{SECRET}"\nsecret_file = "x"', "discovery.secret", "keep one"),
            ('[http]\ntls_cert = "x"', "http.tls_key", "both"),
            ('[http]\ntls_key = "x"', "http.tls_cert", "both"),
            ("[limits]\nbody_bytes = 1024", "limits.event_bytes", "1024"),
            ("a = ", "--config", "TOML"),
            (f"a = {'9' * 5000}", "--config", "TOML"),
            ("a = " + "[" * 5000, "--config", "TOML"),
        ],
    )
    def test_in_the_file(self, toml: str, key: str, says: str) -> None:
        error = failure(toml=toml)
        assert error.key == key
        assert says in str(error)

    def test_in_the_environment_the_variable_is_named(self) -> None:
        assert failure(environ={"SHOAL_STORAGE_COMMIT_ROWS": "many"}).key == "SHOAL_STORAGE_COMMIT_ROWS"

    def test_on_the_command_line_an_unknown_key_is_refused(self) -> None:
        assert failure(argv={"datadir": "x"}).key == "datadir"

    def test_a_short_secret_is_refused_and_never_shown(self) -> None:
        error = failure(environ={"SHOAL_DISCOVERY_SECRET": "hunter2"})
        assert "16 characters" in str(error)
        assert "hunter2" not in str(error)

    def test_the_configuration_never_shows_its_secret(self) -> None:
        assert SECRET not in repr(load({"discovery": {"secret": SECRET}}, {}, None))

    def test_no_discovery_needs_no_secret(self) -> None:
        config = load({"mode": "cluster", "discovery.methods": "none"}, {}, None)
        assert config.discovery.methods == ()

    def test_tls_dir_stands_for_both_files_and_yields_to_them(self) -> None:
        config = load({"tls_dir": "/tls", "http": {"tls_key": "/other.pem"}}, {}, None)
        assert (config.http.tls_cert, config.http.tls_key) == (Path("/tls/cert.pem"), Path("/other.pem"))


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("board-1:4589", ("board-1", 4589)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses_are_split(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@given(st.text(max_size=200))
def test_any_file_is_read_or_refused_in_one_line(toml: str) -> None:
    try:
        load({}, {}, toml)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


@given(st.sampled_from(CONFIGURATION), st.text(st.characters(exclude_categories=[]), max_size=50))
def test_any_text_is_taken_or_refused_in_one_line_naming_the_key(key: Any, text: str) -> None:
    try:
        load({}, {key.variable: text}, None)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 300


def test_a_list_says_that_it_may_be_empty() -> None:
    with pytest.raises(ConfigError, match="one of multicast, mdns, k8s, static, or none alone"):
        load({"discovery.methods": "carrier-pigeons"}, {}, None)
