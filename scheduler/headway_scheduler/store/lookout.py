"""A thread that sees when other processes have written. Law: it reads, tells, and does no more.

Theory of operation. The event loop is the wrong place to look from: teams may keep it busy for
seconds, and waking it a hundred times a second costs more than looking. The thread looks often
while letters come, and less and less often while none do.
"""

import threading
from collections.abc import Callable

from ..errors import StoreError, StoreTakenOver
from .letters import Inbox

SHORTEST_SECONDS = 0.005
LONGEST_SECONDS = 0.04
"""Idle, this is .4 % of a core at most, and the longest that a letter lies unseen."""


class Lookout:
    """Calls ``tell``, from its thread, while there are letters after ``after``.

    Also when another process has come to lead; then it looks no more.
    """

    def __init__(self, inbox: Inbox, tell: Callable[[], None]) -> None:
        self.after = 0
        self._inbox = inbox
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="headway lookout", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Blocks until the last look is over."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        pause = SHORTEST_SECONDS
        while not self._stop.wait(pause):
            pause = min(2 * pause, LONGEST_SECONDS)
            try:
                if self._inbox.has_changed() and self._inbox.waiting(self.after):
                    pause = SHORTEST_SECONDS
                    self._tell()
            except StoreTakenOver:
                self._tell()
                return
            except StoreError:
                self._inbox.look_again()
