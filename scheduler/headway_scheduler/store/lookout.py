"""A thread that sees when other processes have written. Law: it reads, tells, and does no more.

Theory of operation. The event loop is the wrong place to look from: teams may keep it busy for
seconds, and waking it a hundred times a second costs more than looking. The thread looks often
while there is news, and less and less often while there is none.
"""

import threading
from collections.abc import Callable

from ..errors import StoreError, StoreTakenOver

SHORTEST_SECONDS = 0.002
LONGEST_SECONDS = 0.04
"""Idle, this is .4 % of a core at most, and the longest that a letter lies unseen."""


class Lookout:
    """Calls ``look`` from its thread, which says whether there was news, and tells it.

    ``pause_seconds`` says how long at most to wait for the next look. Once ``look`` raises
    StoreTakenOver it is called no more.
    """

    def __init__(
        self,
        look: Callable[[], bool],
        pause_seconds: Callable[[], float] = lambda: LONGEST_SECONDS,
    ) -> None:
        self._call = look
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="headway lookout", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Blocks until the last look is over."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        pause = SHORTEST_SECONDS
        while not self._stop.wait(pause):
            pause = min(2 * pause, self._pause_seconds())
            try:
                if self._call():
                    pause = SHORTEST_SECONDS
            except StoreTakenOver:
                return
            except StoreError:
                pass  # the next look may find it in order
