"""The aiohttp application: one route table per noun, problem+json, and its OpenAPI document."""

from shoal.http.connections import Connections
from shoal.http.service import Service, make_app

__all__ = ["Connections", "Service", "make_app"]
