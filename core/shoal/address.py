"""Addresses as they are written in the configuration: HOST:PORT, and who reaches such a host."""

from __future__ import annotations

import ipaddress
import re


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    known = bracketed or ":" not in host
    if not (colon and host and known and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536):
        raise ValueError("write HOST:PORT, with a port from 0 to 65535, an IPv6 host in brackets")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse: an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
