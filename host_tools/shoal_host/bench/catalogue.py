"""Every scenario by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shoal_host.bench import (
    acks,
    http,
    idle,
    memory,
    peers,
    push,
    reads,
    startup,
    subscriptions,
    wear,
    writes,
)
from shoal_host.bench.bench import Scenario
from shoal_host.bench.cluster import disks, embedded, outages, rivals

SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario("append-1", "1 writer, 1 event per append", writes.one_writer),
        Scenario("append-64", "64 writers, 1 event per append", writes.many_writers),
        Scenario("append-batch-100", "1 writer, 100 events per append", writes.batch_100),
        Scenario("append-batch-1000", "1 writer, 1,000 events per append", writes.batch_1000),
        Scenario("http", "64 connections, 1 event per request", http.appends),
        Scenario("read-pages", "a stream in pages of 1,000", reads.pages),
        Scenario("read-type", "events of a type among few and many", reads.by_type),
        Scenario("append-long-stream", "append to a long stream against a new one", reads.long_stream),
        Scenario("subscription-latency", "an append until a waiting consumer has it", subscriptions.latency),
        Scenario("subscription-catch-up", "one consumer, and 50, of a full store", subscriptions.catch_up),
        Scenario("subscription-live-sse", "events pushed over HTTP as they are appended", push.live),
        Scenario("subscription-idle", "1,000 subscriptions that wait, beside 64 writers", idle.idle),
        Scenario("subscription-acks", "acks one by one, together, and lazy", acks.acks),
        Scenario("memory", "RSS of shoald, idle and after many events", memory.resident),
        Scenario("start", "start of a process to its first append", startup.first_append),
        Scenario("wear", "bytes to disk per event", wear.batches),
        Scenario("wear-slow", "bytes to disk per event at one event a second", wear.slowly),
        Scenario(
            "cluster", "three nodes: on the leader, through a follower, linearizable reads", embedded.rows
        ),
        Scenario("cluster-http", "three nodes, 64 connections, beside etcd and NATS", rivals.appends),
        Scenario("cluster-killed", "three nodes: the leader killed, again and again", outages.killed),
        Scenario("cluster-paused", "three nodes: the leader paused", outages.paused),
        Scenario("cluster-slow-disk", "three nodes on slow disks that stall: no election", disks.slow),
        Scenario("cluster-hung-disk", "three nodes: a sync of the leader hangs for 10 s", disks.hung),
        Scenario("peers", "the same appends in eventsourcing and umadb", peers.others),
    )
}
CLUSTER: Final = tuple(name for name in SCENARIOS if name.partition("-")[0] == "cluster")
"""Those of three nodes."""
