"""Whether others may have taken this worker for dead. Law: contact is an answer, not a tick.

Theory of operation. A worker that shows no life for 10 s loses its runs: they are begun anew
elsewhere, and what it still sends is paid twice. It may have been stopped, or cut off from the
database, and cannot see that by its own clock alone. So it goes by its last heartbeat that was
answered. A worker that has not joined yet has no runs to lose, and counts as in contact.
"""

import time
from collections.abc import Callable

import anyio

from ..errors import StoreError, StoreTakenOver
from ..ports import CONTACT_SECONDS, Presence

RETRY_SECONDS = 1.0


class Contact:
    """This worker's contact with the others, by its ``presence``.

    ``joined_at`` says when it asked to be listed, by ``time.monotonic()``; None: it did not yet.
    """

    def __init__(self, presence: Presence, joined_at: Callable[[], float | None]) -> None:
        self._presence = presence
        self._joined_at = joined_at

    def is_old(self) -> bool:
        """Whether others may have taken this worker for dead, for all that it knows.

        Not right after it joined, however long its process was open before: until the leader has
        taken its first batch no heartbeat finds it listed, and that says nothing.
        """
        if (joined_at := self._joined_at()) is None:
            return False
        return time.monotonic() - max(self._presence.contact_at, joined_at) > CONTACT_SECONDS

    async def renew(self) -> None:
        """Wait for an answered heartbeat if contact is old. Raises StoreTakenOver, StoreError."""
        # Again, if the answer took so long that it is old by now.
        while self.is_old():
            await self._presence.confirm()

    async def watch(self) -> None:
        """Renew whenever contact gets old, until that raises StoreTakenOver."""
        while True:
            try:
                await self.renew()
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)
                continue
            age = time.monotonic() - self._presence.contact_at
            # Heartbeats come each second by themselves: this wakes up only when they do not.
            await anyio.sleep(max(RETRY_SECONDS, CONTACT_SECONDS - age))
