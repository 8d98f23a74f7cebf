"""What the parts of a leader do when the database cannot be read or written: try again, or end."""

from headway_scheduler.errors import StoreReplaced, StoreTakenOver

RETRY_SECONDS = 1.0
"""How long to wait before the same is tried again."""

LOST = (StoreTakenOver, StoreReplaced)
"""Errors after which this process leads no more: nothing is tried again."""
