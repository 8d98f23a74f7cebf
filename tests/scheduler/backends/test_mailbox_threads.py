"""The mailbox of a SQLite database, of which two threads of one process take and read at once."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import anyio
import pytest

from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.ports import LEADER

pytestmark = pytest.mark.anyio


class Listener:
    """A second thread, which has its turn between any two instructions of ``waiting``."""

    def __init__(self, mailbox: SqliteMailbox, sender: SqliteMailbox) -> None:
        self._mailbox = mailbox
        self._sender = sender
        self._thread: threading.Thread | None = None
        self.posted: list[int] = []

    @contextmanager
    def between_instructions(self) -> Iterator[None]:
        before = sys.gettrace()  # of whoever measures the coverage
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)
            if self._thread is not None:
                self._thread.join()

    def _enter(self, frame: FrameType, event: str, _: object) -> "Listener | None":
        if frame.f_code is not SqliteMailbox.waiting.__code__:
            return None
        frame.f_trace_opcodes = True
        return self

    def __call__(self, frame: FrameType, event: str, _: object) -> "Listener":
        if event == "opcode" and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._listen)
            self._thread.start()
            self._thread.join(0.1)  # it may have to wait until ``waiting`` lets it go on
        return self

    def _listen(self) -> None:
        self.posted.append(anyio.run(self._sender.post, "c-1", f"{len(self.posted)}"))
        self._mailbox.read_ahead(LEADER)


async def test_requests_are_taken_while_the_listener_reads_ahead(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "test.db")
    async with await backend.leadership().campaign("w-leader") as term:
        mailbox, sender = backend.mailbox(term.epoch), SqliteMailbox(tmp_path / "test.db")
        listener = Listener(mailbox, sender)
        taken: list[int] = []
        with listener.between_instructions():
            for _ in range(5):
                taken += [each.id for each in await mailbox.waiting(taken)]
        taken += [each.id for each in await mailbox.waiting(taken)]
        await sender.close()
        await mailbox.close()
    assert taken == listener.posted
    assert len(taken) > 30
