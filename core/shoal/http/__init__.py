"""The aiohttp application: one route table per noun, problem+json, and its OpenAPI document."""

from shoal.http.connections import Connections
from shoal.http.service import Service

__all__ = ["Connections", "Service"]
