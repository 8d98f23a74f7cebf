"""The async shell around the core: one pump, one batch, one commit.

Law: nobody is woken before the commit that says so. Memory is never ahead of disk.

Theory of operation. Callers leave messages in a list and wake the pump. The pump takes all that
have gathered, tells them to the core, asks it whom to admit, commits everything that changed at
once, and only then answers the callers. While a commit runs, the next batch gathers: the busier it
is, the more calls share a sync. Idle, the pump sleeps until a message or until the time that the
core named; there is no polling.

If a commit fails, nothing that the batch promised holds: its callers get the error, the core is
thrown away and built again from the store, and calls that others still wait for go on. What the
failed batch could not record about calls whose callers are gone is recorded with the next commit.
If it fails because a row of it is refused, or by a fault of ours, its halves are tried one after
the other, and so on: only the message that brought the row fails. The end of a call that cannot be
recorded becomes a failure, so that what the call holds comes back.

If the process dies: before the commit, the messages never happened; after it and before the
wake-up, a granted call is found *admitted* at the next start and becomes *unknown*.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..core.inspection import provider_health
from ..core.policy import Policy
from ..core.scheduler import Scheduler
from ..errors import (
    HeadwayError,
    InternalError,
    SchedulerClosed,
    StoreCorrupt,
    StoreError,
    StoreTakenOver,
)
from ..model.batch import NOTHING, Batch, Snapshot
from ..model.calls import CallRecord
from ..model.data import replace
from ..model.quotas import Quota
from ..model.runs import Run, Worker
from ..model.states import UNDER_WAY
from ..ports import Clock, Store
from ..protocol.messages import AwaitRuns, Learn, Message, ProbeStopped, SaveRun, Settle
from .client import SessionClient
from .pending import Callers, Decided, Pending, failed_end, finals
from .retry import BUG
from .workers import notifications

RETRY_COMMIT_SECONDS = 1.0
"""How long after a failed commit the next one is tried if nobody asks."""

_log = logging.getLogger("headway")


class Pump:
    """Turns what callers tell into commits, one after the other.

    ``session`` has the calls of this process; ``leader`` are those who ask for the leader itself.
    They may be the same; otherwise they are served after the calls. ``workers`` are the processes
    whose calls go on; ``on_change`` is told every batch that is on disk. It does not admit before
    ``admits`` is set.
    """

    def __init__(
        self,
        store: Store,
        quotas: Iterable[Quota],
        policy: Policy,
        clock: Clock,
        session: SessionClient,
        leader: Callers,
        *,
        workers: Mapping[str, Worker],
        on_change: Callable[[Batch], None],
        admits: bool,
    ) -> None:
        self.admits = admits
        self.lost: StoreTakenOver | None = None
        """Why nothing more can be committed, once a commit found that another process leads."""
        self.core = Scheduler(quotas := tuple(quotas), clock(), policy, session.worker)
        self._store = store
        self._quotas, self._policy, self._clock = quotas, policy, clock
        self._callers, self._leader = session.callers, leader
        self._worker = session.worker
        self._workers = workers
        self._know, self._on_change = session.know, on_change
        self._under_way: dict[str, Run] = {}
        self.awaited: dict[str, frozenset[str]] = {}
        """The runs that each waiting run waits for. Told, not stored: workers say it again."""
        self._waits_changed = False
        self._sending: set[str] = set()
        self._retry_at: float | None = None
        self._now = 0.0
        """The time of the last iteration."""

    async def begin(self) -> None:
        """Go on from the store. What was in flight at a crash is unknown from here on.

        What belongs to a listed worker is that worker's, until it is dropped. Raises StoreError.
        """
        for run in await self._store.assigned():
            if run.worker in self._workers and run.state in UNDER_WAY:
                self._under_way[run.id] = run
        self._know((await self._rebuild()).lessons)
        now = self._clock()
        self.core.handle(ProbeStopped(), now)
        if (batch := self.core.take_batch(now)) != NOTHING:
            await self._store.commit(batch)

    def next_at(self) -> float | None:
        """When to iterate although nobody told anything; None for never."""
        if self._retry_at is not None or not self.admits:
            return self._retry_at
        return self.core.next_event(self._now)

    async def iterate(self) -> None:
        """Commit everything that has gathered: in one batch, unless a row of it is refused."""
        told, self._callers.pending = self._callers.pending, []
        parts = [told]
        if self._leader is not self._callers:
            parts = [[*told, *self._leader.pending]]
            self._leader.pending = []
        while parts:
            part = parts.pop()
            try:
                decided = await self._commit(part)
            except StoreError as error:
                failed = [pending for one in (part, *reversed(parts)) for pending in one]
                if isinstance(error, StoreTakenOver) and self._leader is not self._callers:
                    failed = self._kept_for_next_leader(failed, told, error)
                self._fail(failed, error)
                self._retry_at = self._clock() + RETRY_COMMIT_SECONDS
                return
            except Exception as error:
                # Of the core, or of a row: somebody's, and nothing of it is on disk.
                self._retry_at = self._clock()
                parts += self._isolated(part, error)
            except BaseException:
                # Closing waits no longer. Whether this commit stands, only its engine can tell.
                self._give_up([pending for one in (part, *reversed(parts)) for pending in one])
                raise
            else:
                self._answer(part, decided)

    async def _commit(self, pendings: list[Pending]) -> Decided:
        """Tell the core, ask it, and commit: what changed, and what callers are to be told.

        Takes out of ``pendings`` what the core refuses.
        """
        if self._retry_at is not None:
            await self._rebuild()
        core = self.core
        self._now = now = self._clock()
        pendings[:] = [pending for pending in pendings if self._tell(pending, now)]
        grants = core.admit(now) if self.admits and not self._callers.is_closed else []
        decided = Decided(grants, core.take_preempted(), core.take_refused())
        batch = core.take_batch(now)
        if also := [pending.also for pending in pendings if pending.also is not NOTHING]:
            batch = batch.joined_with(also)
        told = [pending for pending in pendings if pending.orders or pending.sender is not None]
        for_workers = Decided(
            [record for record in decided.grants if not self._is_ours(record)],
            [record for record in decided.preempted if not self._is_ours(record)],
            [each for each in decided.refused if not self._is_ours(each[0])],
        )
        if told or for_workers.grants or for_workers.preempted or for_workers.refused:
            health = provider_health(core.state)
            batch = replace(batch, outbox=notifications(told, for_workers, health))
        if batch != NOTHING:
            # Its records may change while it waits (``sent``): it takes them down before.
            await self._store.commit(batch)
        decided.batch = batch
        return decided

    def _tell(self, pending: Pending, now: float) -> bool:
        """Tell the core; a caller's mistake goes back to that caller alone."""
        for number, message in enumerate(pending.messages):
            if number in pending.refused:
                continue  # a commit was refused for it
            try:
                self.core.handle(message, now, pending.sender or self._worker)
            except HeadwayError as error:
                pending.refused[number] = error
                continue
            if isinstance(message, AwaitRuns):
                self._waits_changed = True
                self.awaited[message.run_id] = message.on
                if not message.on:
                    del self.awaited[message.run_id]
            elif isinstance(message, Learn) and pending.sender is not None:
                self._know(message.lessons)
        if pending.sender is not None or not pending.refused:
            return True
        (refusal,) = pending.refused.values()  # of this process: one message each
        if pending.completion is None:
            raise refusal
        pending.complete(refusal)
        return False

    def _answer(self, pendings: Sequence[Pending], decided: Decided) -> None:
        """The commit stands: wake those who told something, and those who may send."""
        for pending in pendings:
            pending.stands = True
            for message in pending.messages if not pending.refused else pending.accepted():
                self._remember(message)
            if not pending.until_granted:
                pending.complete()
        self._wake(decided)
        if decided.batch != NOTHING or self._waits_changed:
            self._waits_changed = False
            try:
                self._on_change(decided.batch)
            except Exception:  # the commit stands, and callers have been told
                _log.exception(BUG)

    def _wake(self, decided: Decided) -> None:
        """Tell callers of this process what becomes of their calls; workers are notified."""
        callers = self._callers
        for record in decided.preempted:
            if (act := callers.on_preempt.get(record.call.id)) is not None:
                act()
        for record, error in decided.refused:
            if self._is_ours(record) and (waiting := callers.waiting.get(record.call.id)):
                waiting.complete(error)
        for record in decided.grants:
            if not self._is_ours(record):
                continue  # the worker reads it in its notification
            self._sending.add(record.call.id)
            # A caller that was cancelled while the commit ran has an abandon on its way.
            if waiting := callers.waiting.get(record.call.id):
                waiting.granted = record.call
                waiting.complete()

    def _remember(self, message: Message) -> None:
        """Keep what the store does not tell a core that is built again."""
        if isinstance(message, Settle):
            self._sending.discard(message.call_id)
        elif isinstance(message, SaveRun):
            self._under_way[message.run.id] = message.run
            if message.run.state not in UNDER_WAY:
                del self._under_way[message.run.id]
            if message.run.worker is None:
                self.awaited.pop(message.run.id, None)

    def _isolated(self, part: list[Pending], error: Exception) -> list[list[Pending]]:
        """Halve what was refused, until the guilty one is alone: it fails. Return what goes again.

        An error that is nobody's is reported. The core is built anew from what is on disk, as after
        any commit that failed, so nothing is promised that does not stand.
        """
        if len(part) > 1:
            middle = len(part) // 2
            return [part[middle:], part[:middle]]
        if not isinstance(error, HeadwayError) or not part:
            _log.error("a commit failed, and nothing of it was written", exc_info=error)
        if not part:
            self._retry_at = self._clock() + RETRY_COMMIT_SECONDS
            return []
        if not isinstance(error, HeadwayError):
            error = InternalError(f"{type(error).__name__}: {error}: please report it")
        (pending,) = part
        if pending.sender is not None and pending.refuse(error):
            return [part]
        pending.complete(error)
        if pending.sender is not None:
            return []  # its request waits for the next leader
        ends = [end for message in pending.messages if (end := failed_end(message, error))]
        return [[Pending((end,))] for end in ends]

    def _kept_for_next_leader(
        self, failed: list[Pending], told: list[Pending], lost: StoreTakenOver
    ) -> list[Pending]:
        """Leave what callers ``told`` to whoever serves them next; return what has failed.

        Nothing of it is on disk, because the epoch is asserted in the transaction. What the leader
        said, and what other workers told it, ends here: requests wait for the next leader.
        """
        self.lost = lost
        theirs = set(map(id, told))
        kept = [pending for pending in failed if id(pending) in theirs]
        self._callers.pending = kept + self._callers.pending
        return [pending for pending in failed if id(pending) not in theirs]

    def _is_ours(self, record: CallRecord) -> bool:
        """Whether a call was asked for in this process: its caller is told here."""
        return record.worker is None or record.worker == self._worker

    def _fail(self, pendings: list[Pending], error: Exception) -> None:
        """The commit does not stand: say so, keep what must still be recorded, rebuild later."""
        for pending in pendings:
            pending.complete(error)
        self._callers.pending += [Pending((message,)) for message in finals(pendings)]

    def _give_up(self, pendings: list[Pending]) -> None:
        """Say what may not be recorded."""
        closed = SchedulerClosed("the scheduler was closed in a commit: this may not be recorded")
        for pending in pendings:
            pending.complete(closed)
        ids = [message.call_id for message in finals(pendings)]
        ids += [m.run.id for each in pendings for m in each.messages if isinstance(m, SaveRun)]
        if ids:
            _log.error("closed in a commit that may not stand: it was to record %s", ", ".join(ids))

    async def _rebuild(self) -> Snapshot:
        """Build the core from the store. Raises StoreError and leaves the old one then."""
        runs, now = self._under_way.values(), self._clock()
        core = Scheduler(self._quotas, now, self._policy, self._worker)
        try:
            snapshot = await self._store.snapshot()
            left_out = core.restore(
                snapshot, now, self._has_caller, runs=runs, awaited=self.awaited
            )
        except HeadwayError:
            raise
        except Exception as error:  # nobody who waits is to blame for a row on disk
            raise StoreCorrupt(
                f"a row cannot be read ({type(error).__name__}: {error}): `headway db check`"
            ) from error
        for words in left_out:
            _log.warning("%s: see `headway db check`", words)
        self.core = core
        self._retry_at = None
        return snapshot

    def _has_caller(self, record: CallRecord) -> bool:
        """Whether a call on disk is somebody's; not yet, if asking again is still to stand."""
        if not self._is_ours(record):
            return record.worker in self._workers
        call_id = record.call.id
        waiting = self._callers.waiting.get(call_id)
        return call_id in self._sending or (waiting is not None and waiting.stands)
