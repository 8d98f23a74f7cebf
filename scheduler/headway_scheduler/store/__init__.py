"""Durable state: one protocol (``base``), and the stores that keep it."""

from .base import Store
from .memory import MemoryStore
from .sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "Store"]
