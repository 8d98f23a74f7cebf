"""What a store must do. Law of this file: a store saves and loads; it decides nothing.

One instance has one writer. Every error that a caller may meet is a StoreError with a message that
names the file and says what to do; or KeyTaken, if a row is refused for a caller's mistake.
"""

from collections.abc import Collection, Sequence
from typing import Protocol, Self

from .model.batch import Batch, Lesson, Snapshot
from .model.calls import CallRecord, Spent
from .model.changes import Change
from .model.runs import Run, Worker
from .model.states import CallState, RunState


class Store(Protocol):
    """Durable state: the journal of calls, the runs, the buckets.

    Use as an async context manager. ``read_only`` stores take no lock, so any number may be open.
    """

    async def __aenter__(self) -> Self:
        """Open, and migrate if needed. Raises StoreError; nothing was changed then."""

    async def __aexit__(self, *_: object) -> None:
        """Close. What was committed stays."""

    async def commit(self, batch: Batch) -> None:
        """Write all of ``batch`` and sync it, or raise StoreError or KeyTaken and write nothing.

        Returns only when a power cut could no longer undo it. Runs to be forgotten stay if they
        have not ended, or if a run that stays names them as parent.
        """

    async def snapshot(self) -> Snapshot:
        """Load the buckets and every call that is queued, admitted or sent, by arrival."""

    async def run(self, run_id: str) -> Run | None:
        """The run with this id, or the only one whose id starts with it."""

    async def run_with_key(self, key: str) -> Run | None:
        """The run that was submitted under this idempotency key."""

    async def runs(
        self,
        states: Collection[RunState] = (),
        *,
        limit: int | None = None,
        urgent_first: bool = False,
    ) -> Sequence[Run]:
        """Runs in any of ``states`` (all, if empty), newest first; at most ``limit``, if given.

        ``urgent_first``: the best priority first, and of one priority the oldest.
        """

    async def assigned(self) -> Sequence[Run]:
        """Runs that a worker executes, or is about to."""

    async def workers(self) -> Sequence[Worker]:
        """Who executes runs, the first one to come first."""

    async def lessons(self) -> Sequence[Lesson]:
        """What was learned."""

    async def changes(self, *, limit: int | None = None) -> Sequence[Change]:
        """What operators changed, newest first; at most ``limit``, if given."""

    async def spent(self, by: str, since: float) -> Sequence[Spent]:
        """What calls took that came at ``since`` or later, by model, team, workflow, run or day.

        A day is one of UTC, as in 2026-03-01; the key of a call outside of any run is empty.
        """

    async def prompt(self, request_hash: str) -> Sequence[str] | None:
        """The texts of a recorded request, in order; None if it is not recorded."""

    async def calls(
        self,
        run_id: str | None = None,
        states: Collection[CallState] = (),
        *,
        limit: int | None = None,
    ) -> Sequence[CallRecord]:
        """Calls of a run (of all, if None) in any of ``states`` (all, if empty), by arrival.

        At most ``limit``, if given.
        """
