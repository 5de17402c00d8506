"""What a board tells others of where it is."""

from __future__ import annotations

import pytest

from shoal.cluster import addresses
from shoal.cluster.addresses import reachable_addresses, reachable_urls


@pytest.mark.parametrize(
    ("interfaces", "told"),
    [
        (["127.0.0.1", "192.168.1.4", "10.0.0.7"], ("192.168.1.4:5", "10.0.0.7:5")),
        (["127.0.0.1", "169.254.3.3", "192.168.1.4"], ("192.168.1.4:5",)),
        (["127.0.0.1", "169.254.3.3"], ("169.254.3.3:5",)),
        (["127.0.0.1"], ("127.0.0.1:5",)),
    ],
)
def test_who_listens_everywhere_tells_of_the_lan(monkeypatch, interfaces, told):
    monkeypatch.setattr(addresses, "interface_addresses", lambda: interfaces)
    assert reachable_addresses("0.0.0.0", 5) == told


def test_who_listens_at_one_address_tells_of_that():
    assert reachable_addresses("10.1.2.3", 5) == ("10.1.2.3:5",)
    assert reachable_addresses("::1", 5) == ("[::1]:5",)


def test_addresses_are_bounded(monkeypatch):
    many = [f"10.0.0.{n}" for n in range(1, 100)]
    monkeypatch.setattr(addresses, "interface_addresses", lambda: many)
    assert len(reachable_addresses("0.0.0.0", 5)) == addresses.ADDRESSES_MAX


def test_clients_are_told_urls_that_they_can_reach(monkeypatch):
    monkeypatch.setattr(addresses, "interface_addresses", lambda: ["127.0.0.1", "192.168.1.4"])
    assert reachable_urls("https://0.0.0.0:4589") == ["https://192.168.1.4:4589"]
    assert reachable_urls("http://127.0.0.1:4589") == ["http://127.0.0.1:4589"]
    assert reachable_urls("http://[::1]:4589") == ["http://[::1]:4589"]
