"""Keeps a session in a task of its own, so that any task may open and close it.

Theory of operation. A session consists of task groups, and a task group must be left by the task
that entered it. Notebooks, fixtures and shutdown hooks open in one task and close in another. So a
task of its own enters the session, waits until it is told to close, and leaves it.

A session may also end by itself: another process took the lead over. Then the task that opened it
is cancelled, as by a task group, and gets that error where it closes.
"""

import asyncio
import os

import anyio

from headway_scheduler.errors import CallerError

from .session import Opener, Session

NOT_OPEN = "Headway is not open: use it inside `async with Headway() as hw:`"


class SessionOwner:
    """Opens a session once and closes it once."""

    def __init__(self, opener: Opener) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise CallerError(
                "Headway runs on asyncio, as AutoGen does: use asyncio.run(…), or anyio.run(…) "
                "without backend='trio'"
            ) from None
        self._opener = opener
        self._pid = os.getpid()
        self._host = asyncio.current_task()
        self._opened: asyncio.Future[Session] = self._loop.create_future()
        self._leaving: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._is_host_cancelled = False
        self._task: asyncio.Task[bool | None]

    @property
    def is_open(self) -> bool:
        """Whether the session is there, and was not closed."""
        return self._opened.done() and self._opened.result().is_open

    @property
    def session(self) -> Session:
        """The session, for the loop that opened it. Raises CallerError."""
        if not self.is_open:
            raise CallerError(NOT_OPEN)
        self._check_here()
        return self._opened.result()

    async def open(self) -> None:
        """Open the session. Raises StoreError."""
        self._task = self._loop.create_task(self._own(), name="headway session")
        self._task.add_done_callback(self._ended)
        await self._waited(self._opened)
        if not self._opened.done():
            self._task.result()  # raises why it has not opened

    async def close(self, error: BaseException | None) -> bool | None:
        """Close the session as ``AsyncExitStack.__aexit__`` does, after an ``error`` if given.

        Raises the error that the session ended with, if it ended by itself.
        """
        self._check_here()
        # Closing waits for the runs: a run that waited for that would wait for itself.
        if self.is_open and (run_id := self._opened.result().asking_run()) is not None:
            raise CallerError(
                f"run {run_id} cannot close the Headway that executes it: close it where it was "
                "opened"
            )
        if not self._leaving.done():
            self._leaving.set_result(error)
        if self._is_host_cancelled and isinstance(error, asyncio.CancelledError):
            self._is_host_cancelled = False
            if self._host is not None:
                self._host.uncancel()
        await self._waited(self._task)
        return False if self._task.cancelled() else self._task.result()

    def _check_here(self) -> None:
        """Raise CallerError in another process, and in another event loop.

        Without a loop (a property that is read in another thread) nothing can wait for ever.
        """
        if os.getpid() != self._pid:
            raise CallerError(
                "Headway was opened before this process was forked: open one of your own here; "
                "several processes may share a database"
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if loop is not self._loop:
            raise CallerError(
                "Headway was opened in another event loop, or thread: call it there "
                "(asyncio.run_coroutine_threadsafe), or open one of your own here"
            )

    async def _own(self) -> bool | None:
        session = await self._opener.open()
        self._opened.set_result(session)
        error: BaseException | None
        try:
            # Shielded: a cancellation of this task must leave the future, which `close` and
            # `_ended` look at, as it is.
            error = await asyncio.shield(self._leaving)
        except asyncio.CancelledError as cancelled:
            error = cancelled
        return await session.close(error)

    def _ended(self, task: asyncio.Task[bool | None]) -> None:
        """End the block of a session that has ended by itself."""
        failed = not task.cancelled() and task.exception() is not None
        if failed and self._opened.done() and not self._leaving.done() and self._host is not None:
            self._is_host_cancelled = self._host.cancel()

    async def _waited(self, what: "asyncio.Future[Session] | asyncio.Task[bool | None]") -> None:
        """Wait for ``what``, or the end of the session; cancelled, end it and wait for that."""
        try:
            await asyncio.wait({what, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._task})
            raise
