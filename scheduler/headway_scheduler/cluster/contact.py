"""Whether others may have taken this worker for dead. Law: contact is an answer, not a tick.

Theory of operation. A worker that shows no life for 10 s loses its runs: they are begun anew
elsewhere, and what it still sends is paid twice. It may have been stopped, or cut off from the
database, and cannot see that by its own clock alone. So it goes by its last heartbeat that was
answered. A worker that has not joined yet has no runs to lose, and counts as in contact: so it does
while the request by which it joins waits for a busy leader, or for one to lead.
"""

import time
from collections.abc import Awaitable, Callable
from math import inf

import anyio

from ..errors import StoreError, StoreTakenOver
from ..ports import CONTACT_SECONDS, Presence
from ..runtime.retry import RETRY_SECONDS


class Contact:
    """This worker's contact with the others, by its ``presence``.

    ``joined_at`` says when it asked to be listed, by ``time.monotonic()``; None: it did not yet.
    ``is_joining`` says whether what it asked still waits in the mailbox; may raise StoreError.
    """

    def __init__(
        self,
        presence: Presence,
        joined_at: Callable[[], float | None],
        is_joining: Callable[[], Awaitable[bool]],
    ) -> None:
        self._presence = presence
        self._joined_at = joined_at
        self._is_joining = is_joining
        self._not_listed_at = -inf
        """When it was last seen to wait to be listed; ``time.monotonic()``."""

    def is_old(self) -> bool:
        """Whether others may have taken this worker for dead, for all that it knows.

        Not right after it joined, however long its process was open before: until the leader has
        taken its first batch no heartbeat finds it listed, and that says nothing.
        """
        if (joined_at := self._joined_at()) is None:
            return False
        last = max(self._presence.contact_at, joined_at, self._not_listed_at)
        return time.monotonic() - last > CONTACT_SECONDS

    async def renew(self) -> None:
        """Wait for an answered heartbeat if contact is old. Raises StoreTakenOver, StoreError."""
        # Again, if the answer took so long that it is old by now.
        while self.is_old():
            # The time before the look, as of a heartbeat. The look at the mailbox before that at
            # the list: one commit of the leader moves this worker from the first to the second.
            began = time.monotonic()
            if await self._is_joining():
                self._not_listed_at = began
            else:
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
