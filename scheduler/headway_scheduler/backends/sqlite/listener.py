"""A thread that sees when other processes have written. Law: it reads, tells, and does no more.

Theory of operation. The event loop is the wrong place to look from: teams may keep it busy for
seconds, and waking it a hundred times a second costs more than looking. The thread sleeps until a
bell rings, and now and then looks without: a hint may be lost.
"""

import threading
from collections.abc import Callable

from ...errors import StoreError, StoreTakenOver
from .notifier import Bell


class Lookout:
    """Calls ``look`` from its thread when ``bell`` rings, and at least every ``pause_seconds``.

    ``look`` is told whether it rang. Once it raises StoreTakenOver it is called no more.
    """

    def __init__(self, bell: Bell, look: Callable[[bool], None], pause_seconds: float) -> None:
        self._bell = bell
        self._call = look
        self._pause_seconds = pause_seconds
        self._is_over = False
        self._thread = threading.Thread(target=self._look, name="headway lookout", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Blocks until the last look is over."""
        self._is_over = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        while not self._is_over:
            has_rung = self._bell.wait(self._pause_seconds)
            try:
                self._call(has_rung)
            except StoreTakenOver:
                return
            except StoreError:
                pass  # the next look may find it in order
