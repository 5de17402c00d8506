"""Where this board can be reached: the addresses of its network interfaces."""

from __future__ import annotations

import ipaddress
from typing import Final

from shoal.address import join_address, split_address

ADDRESSES_MAX: Final = 8
"""Of one board, wherever they are told or kept."""


def interface_addresses() -> list[str]:
    """IPv4 addresses of all interfaces, loopback too."""
    import ifaddr  # two files and the C library: only a cluster pays for it

    return sorted(str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4)


def reachable_addresses(host: str, port: int) -> tuple[str, ...]:
    """What others are told of a socket that listens on `host`: of one on every interface, those of the LAN.

    A board without a LAN tells of its loopback, so that boards on one machine find each other.
    """
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return (join_address(host, port),)
    found = [ipaddress.ip_address(text) for text in interface_addresses()]
    lan = [ip for ip in found if not ip.is_loopback and not ip.is_link_local]
    chosen = lan or [ip for ip in found if not ip.is_loopback] or found
    return tuple(f"{ip}:{port}" for ip in chosen[:ADDRESSES_MAX])


def reachable_urls(url: str) -> list[str]:
    """As `reachable_addresses`, for `SCHEME://HOST:PORT`: what other members tell clients."""
    scheme, _, address = url.partition("://")
    host, port = split_address(address)
    return [f"{scheme}://{each}" for each in reachable_addresses(host, port)]
