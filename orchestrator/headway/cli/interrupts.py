"""What Ctrl-C does: the first drains, the second stops. SIGTERM is as Ctrl-C.

The event loop may be blocked by the code of a run, or be about to end. So the handler is one of
Python, which runs in the middle of anything: it asks the loop to drain, and leaves the rest to
asyncio's own handler, which cancels the main task and, pressed again, raises KeyboardInterrupt.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def draining_first(drain: Callable[[], bool]) -> Iterator[None]:
    """Have the first Ctrl-C of the block call ``drain`` in the loop, and the next ones stop.

    ``drain`` returns whether there was anything to wait for; if not, the first one stops as well.
    """
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    # A shell has its background jobs ignore Ctrl-C; only the main thread may set a handler.
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    stop: Callable[[int, FrameType | None], object] = before
    is_asked = is_heard = False

    def heard() -> None:
        nonlocal is_heard
        is_heard = True
        if not drain():
            stop(signal.SIGINT, None)

    def pressed(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            loop.call_soon_threadsafe(heard)
            return
        if not is_heard:  # the loop is blocked: only an exception ends what blocks it
            stop(number, frame)
        stop(number, frame)

    # ``headway work`` heeds SIGTERM by itself, from here on.
    before_term = signal.signal(signal.SIGTERM, pressed)
    signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_term or signal.SIG_DFL)
