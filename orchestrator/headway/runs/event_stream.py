"""The events of all runs of a process, for one reader. Law: a slow reader keeps nobody waiting."""

from collections import deque
from typing import Self
from weakref import WeakSet

import anyio

from .events import Missed, Progress

BUFFERED = 1_000
"""How many events wait for a reader; of more, the oldest are lost."""


class EventStream:
    """An async iterator of events: ``Headway.events`` makes one. For one task at a time.

    It begins with what happens after it is made, and ends when Headway closes. Whoever makes one
    and does not read it loses events, and nothing else.
    """

    def __init__(self) -> None:
        self._events: deque[Progress] = deque()
        self._missed = 0
        self._is_over = False
        self._changed = anyio.Event()

    def put(self, event: Progress) -> None:
        """Add an event, in place of the oldest one if it is full. For handles."""
        if len(self._events) >= BUFFERED:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._changed.set()

    def end(self) -> None:
        """Let the reader come to an end, after what is there. For the session."""
        self._is_over = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Progress | Missed:
        while not (self._missed or self._events):
            if self._is_over:
                raise StopAsyncIteration
            self._changed = anyio.Event()
            await self._changed.wait()
        if self._missed:
            missed, self._missed = Missed(self._missed), 0
            return missed
        return self._events.popleft()


class EventStreams(WeakSet[EventStream]):
    """The streams of a process, each for as long as somebody holds it."""

    def open(self) -> EventStream:
        """Make a stream of what happens from now on."""
        stream = EventStream()
        self.add(stream)
        return stream

    def end(self) -> None:
        """Let all readers come to an end: the runs have ended."""
        for stream in self:
            stream.end()
