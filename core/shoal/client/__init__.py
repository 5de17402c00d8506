"""The gateway: stores on other boards behind the interface of an embedded one (see DESIGN.md)."""

from shoal.client.remote import RemoteStore, connect
from shoal.client.retry import RetryPolicy

__all__ = ["RemoteStore", "RetryPolicy", "connect"]
