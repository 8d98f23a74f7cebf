"""A worker's calls through the scheduler of another process: here in one, over a real database."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import walk_tb

import anyio
import pytest
from tests.odd import unchecked
from tests.scheduler.backends.engines import Engine, Sqlite
from tests.scheduler.backends.test_power_loss import Files
from tests.waiting import until

from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.cluster.posting import FollowerCallbacks
from headway_scheduler.cluster.remote import RemoteScheduler
from headway_scheduler.errors import (
    CallTooLarge,
    InternalError,
    SchedulerClosed,
    StoreFull,
    StoreTakenOver,
    UnknownQuota,
)
from headway_scheduler.model.batch import Batch, Lesson, Letter, OutboxRow
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route, Usage
from headway_scheduler.model.changes import HoldState
from headway_scheduler.model.prompts import NO_PROMPT
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import CONTACT_SECONDS, LEADER, Backend, Store
from headway_scheduler.protocol.codec import load_request
from headway_scheduler.protocol.commands import Order, PauseRun
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.pending import Pending

pytestmark = pytest.mark.anyio

ME = Worker("w-me", 1, 0.0)
DONE = Outcome(CallState.DONE, Usage(3, 4), "answer", arrival=0)
QUOTAS = (
    Quota.per_minute("q", requests=600, tokens=100_000, concurrency=2),
    Quota.per_minute("other", requests=600),
)


def call(number: int, priority: Priority = Priority.NORMAL, tokens: int = 10) -> Call:
    return Call(f"r-1.{number}", "r-1", "writer", "m", ("q",), priority, tokens, 1.0, "hash")


def batch_of(row: Letter) -> MessageBatch:
    request = load_request(row.event)
    assert isinstance(request, MessageBatch)
    return request


@dataclass
class Office:
    """A leader that takes requests while it is open, and a worker."""

    engine: Engine
    backend: Backend
    scheduler: LocalScheduler
    store: Store
    epoch: int
    is_open: bool = True
    reads: bool = True
    seen: list[Batch] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    joined: bool = False

    async def take_requests(self) -> None:
        mailbox = self.backend.mailbox(self.epoch)
        try:
            while True:
                for request in await mailbox.waiting(()) if self.is_open else ():
                    if self.reads:
                        await self.scheduler.workers.deliver(request.id, batch_of(request)).wait()
                        continue
                    workers, why = self.scheduler.workers, "from the future"
                    await workers.deliver_unreadable(request.id, request.sender, why).wait()
                await anyio.sleep(0.002)
        finally:
            await mailbox.close()

    def join(self) -> None:
        self.joined = True

    def callbacks(self) -> FollowerCallbacks:
        return FollowerCallbacks(
            lambda: None if self.joined else ME,
            self.join,
            {"r-1": None},
            self.seen.append,
            self.orders.append,
        )

    async def row(self, number: int) -> CallRecord:
        rows = await self.store.calls("r-1")
        return next(row for row in rows if row.call.id == f"r-1.{number}")

    async def until_done(self, count: int) -> None:
        """Wait until so many calls have come to their end on disk."""
        done = 0
        while done < count:  # rows have no event
            await anyio.sleep(0.002)
            done = len(await self.store.calls("r-1", {CallState.DONE}))

    def states(self, number: int) -> list[CallState]:
        """The states of its call as the worker saw them."""
        records = [r for batch in self.seen for r in (*batch.new, *batch.changed)]
        return [record.state for record in records if record.call.id == f"r-1.{number}"]


@asynccontextmanager
async def led(engine: Engine, quotas: Sequence[Quota] = QUOTAS) -> AsyncIterator[Office]:
    backend = engine.process()
    notifier = backend.notifier(LEADER)

    def rung(batch: Batch) -> None:
        for row in batch.outbox:
            notifier.ring(row.worker)

    async with (
        await backend.leadership().campaign("w-leader") as term,
        LocalScheduler(term.store, quotas, on_change=rung) as scheduler,
        anyio.create_task_group() as group,
    ):
        office = Office(engine, backend, scheduler, term.store, term.epoch)
        group.start_soon(office.take_requests)
        yield office
        group.cancel_scope.cancel()


@asynccontextmanager
async def follower(office: Office) -> AsyncIterator[RemoteScheduler]:
    """The scheduler of another process."""
    backend = office.engine.process()
    async with (
        backend.workers().present(ME.id) as presence,
        RemoteScheduler(backend, ME.id, office.store.clock, office.callbacks(), presence) as remote,
    ):
        yield remote


@pytest.fixture
def engine(engine_or_deaf: Engine) -> Engine:
    return engine_or_deaf


@pytest.fixture
async def office(engine: Engine) -> AsyncIterator[Office]:
    async with led(engine) as office:
        yield office


@pytest.fixture
async def remote(office: Office) -> AsyncIterator[RemoteScheduler]:
    async with follower(office) as remote:
        yield remote


def stopped_for_long(remote: RemoteScheduler) -> None:
    """As if this process had been stopped for 60 s, and its heartbeats with it."""
    remote._presence.contact_at -= 60  # type: ignore[misc]
    remote._posting.joined_at -= 60


async def test_a_call_goes_all_its_way(office: Office, remote: RemoteScheduler) -> None:
    granted = await remote.acquire(call(0))
    assert granted == call(0)
    row = await office.row(0)
    assert (row.state, row.worker) == (CallState.ADMITTED, ME.id)
    await remote.sent(granted.id)
    await remote.settle(granted.id, DONE)
    await remote.save_run(Run("r-1", "w", "t", Priority.LOW, RunState.COMPLETED, 1.0))
    row = await office.row(0)
    assert (row.state, row.usage, row.answer, row.arrival) == (CallState.DONE, *_told(DONE))
    assert row.sent_at is not None
    assert [state.value for state in office.states(0)][-1] == "done"
    assert await office.store.workers() == [ME]


def _told(outcome: Outcome) -> tuple[Usage | None, str | None, int | None]:
    return outcome.usage, outcome.answer, outcome.arrival


async def test_what_the_core_refuses_is_raised_where_it_was_asked(
    office: Office, remote: RemoteScheduler
) -> None:
    with pytest.raises(CallTooLarge):
        await remote.acquire(call(0, tokens=10**9))
    with pytest.raises(UnknownQuota, match="nowhere"):
        await remote.acquire(Call("r-1.1", "r-1", "a", "m", ("nowhere",), Priority.LOW, 1, 1.0))
    assert (await remote.acquire(call(2))).id == "r-1.2"
    await remote.settle("r-1.2", DONE)
    assert {row.call.id for row in await office.store.calls("r-1")} == {"r-1.2"}


async def test_an_end_that_an_agent_has_seen_outlives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the leader has taken the request. The disk has what was there at the last sync."""
    path = tmp_path / "headway.db"
    async with led(Sqlite(path, monkeypatch)) as office, follower(office) as remote:
        await cut_off_after_an_end(office, remote, path, tmp_path, monkeypatch)


async def cut_off_after_an_end(
    office: Office,
    remote: RemoteScheduler,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    granted = await remote.acquire(call(0))
    await remote.sent(granted.id)
    await remote.save_run(Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0, worker=ME.id))
    disk, mailbox = [Files.of(path)], remote._mailbox  # the leader's commits are syncs
    assert isinstance(mailbox, SqliteMailbox)
    post = mailbox._post

    def post_to_disk(sender: str, text: str, durable: bool) -> int:
        request_id = post(sender, text, durable)
        assert mailbox._outgoing is not None
        settings = [mailbox._outgoing.execute(f"PRAGMA {name}").fetchone()[0] for name in SYNC]
        if settings == [2, 1]:
            disk.append(Files.of(path))
        return request_id

    monkeypatch.setattr(mailbox, "_post", post_to_disk)
    office.is_open = False
    await remote.settle(granted.id, DONE)

    path = disk[-1].put(tmp_path / "after the cut" / "headway.db")
    async with SqliteStore(path) as store, LocalScheduler(store, QUOTAS, admits=False) as scheduler:
        after = SqliteMailbox(path)
        requests = await after.waiting(())
        await after.close()
        for request in requests:
            await scheduler.workers.deliver(request.id, batch_of(request)).wait()
        (row,) = await store.calls("r-1")
    assert (row.state, row.usage, row.answer, row.arrival) == (CallState.DONE, *_told(DONE))


SYNC = ("synchronous", "fullfsync")
"""What SQLite must be set to (FULL, and on macOS past the drive's cache) for a commit to sync."""


async def test_an_urgent_call_goes_before_those_of_the_leader(
    office: Office, remote: RemoteScheduler
) -> None:
    here = [Call(f"here.{n}", "here", "a", "m", ("q",), Priority.LOW, 1, 1.0) for n in range(3)]
    for each in here[:2]:
        await office.scheduler.acquire(each)
    async with anyio.create_task_group() as group:
        group.start_soon(office.scheduler.acquire, here[2])
        group.start_soon(remote.acquire, call(0, Priority.INTERACTIVE))
        await until(lambda: sum(office.scheduler.statistics().waiting) == 2)
        await office.scheduler.settle("here.0", DONE)
        await until(lambda: office.states(0)[-1:] == [CallState.ADMITTED])
        assert sum(office.scheduler.statistics().waiting) == 1
        await remote.settle("r-1.0", DONE)
    for call_id in ("here.1", "here.2"):
        await office.scheduler.settle(call_id, DONE)


async def test_one_that_is_tried_again_keeps_its_place_and_one_that_is_cancelled_leaves(
    office: Office, remote: RemoteScheduler
) -> None:
    await remote.acquire(call(0))
    await remote.retry("r-1.0", Outcome(CallState.QUEUED, error="busy"))
    assert (await office.row(0)).attempts == 2
    await remote.acquire(call(1))
    async with anyio.create_task_group() as group:
        group.start_soon(remote.acquire, call(2))  # which finds no slot
        await until(lambda: sum(office.scheduler.statistics().waiting) == 1)
        group.cancel_scope.cancel()
    await until(lambda: office.states(2)[-1:] == [CallState.CANCELLED])
    await remote.save_run(Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0))
    assert (await office.row(2)).state is CallState.CANCELLED
    remote.abandon("r-1.0", Outcome(CallState.CANCELLED))
    await until(lambda: office.scheduler.statistics().in_flight == 1)


async def test_the_end_of_a_call_is_durable_whether_anybody_leads_or_not(engine: Engine) -> None:
    async with led(engine) as office, follower(office) as remote:
        await remote.acquire(call(0))
        office.is_open = False
        await remote.settle("r-1.0", DONE)
        assert (await office.row(0)).state is CallState.ADMITTED
    async with led(engine) as office:
        await office.until_done(1)
        assert (await office.row(0)).lost_attempts == 0


async def test_the_next_leader_goes_on_with_what_waits_and_flies(engine: Engine) -> None:
    """Grants that are told of in the database are not lost, nor given twice."""
    async with anyio.create_task_group() as group:
        async with led(engine) as first:
            group.start_soon(_work, follower(first), 6)
            await until(lambda: sum(first.scheduler.statistics().waiting) == 4)
        async with led(engine) as second:
            statistics = second.scheduler.statistics()
            assert (statistics.in_flight, sum(statistics.waiting)) == (2, 4)
            await until(lambda: _done(first.seen) == 6)
            await second.until_done(6)
            assert {r.attempts for r in await second.store.calls("r-1")} == {1}


async def test_with_the_next_leader_what_waits_goes_to_its_fallback(engine: Engine) -> None:
    routes = (Route("m", ("q",), 10), Route("m2", ("other",), 10, rank=1))
    granted: list[Call] = []
    is_succeeded = anyio.Event()

    async def work(following: AbstractAsyncContextManager[RemoteScheduler]) -> None:
        async with following as remote, anyio.create_task_group() as calls:
            for number in range(2):  # no slot of q is left
                await remote.acquire(call(number))

            async def third() -> None:
                granted.append(await remote.acquire(call(2), NO_PROMPT, routes))
                await remote.settle("r-1.2", DONE)

            calls.start_soon(third)
            await is_succeeded.wait()
            stopped = Observation(event=ProviderEvent.LOCKED_OUT, error="no money")
            await remote.settle("r-1.0", Outcome(CallState.FAILED), {"q": stopped})

    async with anyio.create_task_group() as group:
        async with led(engine) as first:
            group.start_soon(work, follower(first))
            await until(lambda: sum(first.scheduler.statistics().waiting) == 1)
        async with led(engine) as second:
            is_succeeded.set()
            await second.until_done(1)
    assert [each.model for each in granted] == ["m2"]


def _done(seen: list[Batch]) -> int:
    changed = {r.call.id: r.state for batch in seen for r in (*batch.new, *batch.changed)}
    return sum(state is CallState.DONE for state in changed.values())


async def _work(following: AbstractAsyncContextManager[RemoteScheduler], calls: int) -> None:
    async def one(number: int) -> None:
        granted = await remote.acquire(call(number))
        await anyio.sleep(0.3)
        await remote.settle(granted.id, DONE)

    async with following as remote, anyio.create_task_group() as group:
        for number in range(calls):
            group.start_soon(one, number)


async def test_one_that_others_took_for_dead_is_told_and_sends_nothing(office: Office) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await dead_with_two_in_flight(office)
    assert raised.group_contains(StoreTakenOver)
    assert len(await office.store.calls("r-1")) == 2


async def dead_with_two_in_flight(office: Office) -> None:
    async with follower(office) as remote:
        await remote.acquire(call(0))
        await remote.acquire(call(1))
        await office.scheduler.workers.drop(ME.id)
        assert [(await office.row(n)).state for n in (0, 1)] == [CallState.UNKNOWN] * 2
        stopped_for_long(remote)
        with pytest.raises(StoreTakenOver, match="showed no life"):
            await remote.sent("r-1.0")
        with pytest.raises(StoreTakenOver):
            await remote.acquire(call(2))
        await anyio.sleep_forever()


async def test_one_that_others_may_have_taken_for_dead_asks_before_it_sends(
    office: Office, remote: RemoteScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request leaves once a heartbeat has found that this worker is still listed."""
    granted = await remote.acquire(call(0))
    presence, answer, left = remote._presence, anyio.Event(), anyio.Event()
    confirm = presence.confirm

    async def confirm_late() -> None:
        await answer.wait()
        await confirm()

    async def send() -> None:
        await remote.sent(granted.id)
        left.set()

    monkeypatch.setattr(presence, "confirm", confirm_late)
    office.engine.stop(presence)  # it is cut off: no heartbeat is answered
    stopped_for_long(remote)
    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await anyio.sleep(0.05)
        assert not left.is_set()
        answer.set()
        await left.wait()
    await remote.settle(granted.id, DONE)
    await office.until_done(1)
    assert (await office.row(0)).sent_at is not None


async def test_one_whose_first_batch_is_on_its_way_is_not_taken_for_dead(office: Office) -> None:
    """A process that asked nothing for long is in no list: it joins with what it asks first."""
    office.is_open = False
    async with follower(office) as remote, anyio.create_task_group() as group:
        remote._presence.contact_at = time.monotonic() - CONTACT_SECONDS - 1  # type: ignore[misc]
        group.start_soon(remote.acquire, call(0))
        await until(lambda: office.joined)
        await remote._contact.renew()  # as the watch does
        office.is_open = True
        await until(lambda: CallState.ADMITTED in office.states(0))
        await remote.sent(call(0).id)


async def test_requests_of_the_dead_are_refused_and_its_calls_parked(office: Office) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await dead_with_one_waiting(office)
    assert raised.group_contains(StoreTakenOver)
    assert (await office.row(0)).state is CallState.UNKNOWN
    again = await office.scheduler.reacquire(await office.row(2))
    assert (await office.row(2)).worker is None
    await office.scheduler.settle(again.id, DONE)


async def dead_with_one_waiting(office: Office) -> None:
    async with (
        follower(office) as remote,
        anyio.create_task_group() as group,
    ):
        run = Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0, worker=ME.id)
        await remote.save_run(run)
        for number in range(3):
            group.start_soon(remote.acquire, call(number))
        await until(lambda: sum(office.scheduler.statistics().waiting) == 1)
        (lost,) = await office.scheduler.workers.drop(ME.id)
        assert (lost.state, lost.worker) == (RunState.INTERRUPTED, None)
        assert office.scheduler.statistics().parked == 1
        await remote.settle("r-1.0", DONE)  # its request is written, and not taken
        await anyio.sleep_forever()


async def test_it_goes_where_its_routes_lead_and_knows_who_answers_nobody(
    office: Office, remote: RemoteScheduler
) -> None:
    elsewhere = Route("m2", ("other",), 10)
    for number in range(2):
        await remote.acquire(call(number))
    granted = await remote.acquire(call(2), NO_PROMPT, (Route("m", ("q",), 10), elsewhere))
    assert (granted.model, granted.quotas) == ("m2", ("other",))
    assert office.states(2)[-1] is CallState.ADMITTED
    locked = {"other": Observation(event=ProviderEvent.LOCKED_OUT, error="no money")}
    await remote.settle("r-1.2", Outcome(CallState.FAILED, error="no money"), locked)
    remote.observed("r-1.0", "q", Observation(event=ProviderEvent.ANSWERED))
    for number in range(2):
        await remote.settle(f"r-1.{number}", DONE)
    await remote.save_run(Run("r-1", "w", "t", Priority.LOW, RunState.COMPLETED, 1.0))
    health = remote.provider_health()
    assert ("other" in health.locked_out, "q" in health.locked_out) == (True, False)
    assert ("other" in health.unanswered, "q" in health.unanswered) == (True, False)


async def test_orders_and_what_is_learned_pass(office: Office, remote: RemoteScheduler) -> None:
    remote.learn("writer", "m", 400, Usage(100, 7))
    await remote.save_run(Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0))
    assert office.scheduler.expected("writer", "m", 400, None).output_tokens == 7
    await office.scheduler.workers.order(ME.id, PauseRun("r-1"))
    await until(lambda: office.orders == [PauseRun("r-1")])
    presence = office.backend.workers().present("w-other")
    other = RemoteScheduler(
        office.backend, "w-other", office.store.clock, office.callbacks(), presence
    )
    other.know([Lesson("something else", "x", "y"), *await office.store.lessons()])
    assert other.expected("writer", "m", 400, None).output_tokens == 7


async def test_a_young_call_gives_its_slot_back_when_it_is_told(engine: Engine) -> None:
    local = Quota("q", QUOTAS[0].limits, is_local=True)
    async with (
        led(engine, [local]) as office,
        anyio.create_task_group() as group,
    ):
        async with follower(office) as remote:
            preempted = anyio.Event()
            for number in range(2):
                await remote.acquire(call(number, Priority.BACKGROUND))
                remote.on_preempt[f"r-1.{number}"] = preempted.set
            urgent = Call("u.0", "u", "a", "m", ("q",), Priority.INTERACTIVE, 1, 1.0)
            group.start_soon(office.scheduler.acquire, urgent)
            await preempted.wait()
        group.cancel_scope.cancel()


async def test_what_cannot_be_written_is_told_and_ends_are_kept(
    office: Office, remote: RemoteScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remote.acquire(call(0))

    async def full(*_: object, **__: object) -> int:
        raise StoreFull("headway.db: no room to write")

    monkeypatch.setattr("headway_scheduler.cluster.posting.RETRY_SECONDS", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(remote._mailbox, "post", full)
        with pytest.raises(StoreFull, match="no room"):
            await remote.acquire(call(1))
        with pytest.raises(StoreFull):
            await remote.settle("r-1.0", DONE)
    await office.until_done(1)
    assert len(await office.store.calls("r-1")) == 1


@pytest.mark.parametrize("tokens", [1.5, float("nan")])
async def test_an_end_that_no_leader_could_read_is_raised_at_its_caller_alone(
    office: Office, remote: RemoteScheduler, tokens: float
) -> None:
    """Its agent would go on from an answer that is not recorded, and its run would complete."""
    usage = unchecked(Usage, input_tokens=tokens, output_tokens=1)
    for number in range(2):
        await remote.acquire(call(number))
    async with anyio.create_task_group() as group:
        group.start_soon(remote.settle, "r-1.0", DONE)  # in the same batch
        with pytest.raises(InternalError, match="another version of Headway"):
            await remote.settle("r-1.1", Outcome(CallState.DONE, usage, "answer"))
    await remote.save_run(Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0))
    assert [(await office.row(n)).state for n in range(2)] == [CallState.DONE, CallState.FAILED]
    for number in range(2, 4):  # there are two slots: both are free again
        await remote.acquire(call(number))


async def test_a_batch_that_the_leader_cannot_read_is_raised_at_everyone_who_waits(
    office: Office, remote: RemoteScheduler
) -> None:
    errors: list[InternalError] = []

    async def ask(number: int) -> None:
        with pytest.raises(InternalError, match="from the future") as caught:
            await remote.acquire(call(number))
        errors.append(caught.value)

    await office.scheduler.set_hold("all", HoldState.PAUSED)
    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(ask, number)
        await until(lambda: len(office.scheduler.queued()) == 2)
        office.reads = False
        group.start_soon(ask, 2)
        await until(lambda: len(errors) == 3)
    assert len({id(error) for error in errors}) == 3
    office.reads = True
    await office.scheduler.set_hold("all", HoldState.OPEN)
    assert (await remote.acquire(call(3))).id == "r-1.3"
    await remote.settle("r-1.3", DONE)
    await until(lambda: not office.scheduler.queued())  # what was granted to nobody is given back


async def test_each_that_waits_when_it_is_taken_for_dead_gets_an_error_of_its_own(
    office: Office,
) -> None:
    errors: list[BaseException] = []
    sent: list[BaseException] = []

    async def ask(remote: RemoteScheduler, number: int) -> None:
        try:
            await remote.acquire(call(number))
        except StoreTakenOver as error:
            errors.append(error)

    await office.scheduler.set_hold("all", HoldState.PAUSED)
    async with anyio.create_task_group() as group:
        with pytest.raises(ExceptionGroup):  # noqa: PT012 - the pump raises where it ends
            async with follower(office) as remote:
                for number in range(1000):
                    group.start_soon(ask, remote, number)
                await until(lambda: len(office.scheduler.queued()) == 1000)
                await office.scheduler.workers.drop(ME.id)
                stopped_for_long(remote)
                for _ in range(2):
                    with pytest.raises(StoreTakenOver) as caught:
                        await remote.sent("r-1.0")
                    sent.append(caught.value)
                await until(lambda: len(errors) == 1000)
                await anyio.sleep_forever()
    assert len({id(error) for error in (*errors, *sent)}) == 1002
    assert len({str(error) for error in (*errors, *sent)}) == 1
    for some in (errors, sent):
        assert len({sum(1 for _ in walk_tb(error.__traceback__)) for error in some}) == 1


async def test_closing_lets_nobody_wait(office: Office) -> None:
    async def ask(remote: RemoteScheduler, errors: list[Exception]) -> None:
        try:
            await remote.acquire(call(0))
        except SchedulerClosed as error:
            errors.append(error)

    errors: list[Exception] = []
    await office.scheduler.set_hold("all", HoldState.PAUSED)
    async with anyio.create_task_group() as group:
        async with follower(office) as remote:
            group.start_soon(ask, remote, errors)
            await until(lambda: len(office.scheduler.queued()) == 1)
        await until(lambda: len(errors) == 1)


async def test_what_is_granted_to_nobody_while_it_closes_is_given_back(office: Office) -> None:
    async def ask(remote: RemoteScheduler) -> None:
        with pytest.raises(InternalError, match="could not read"):
            await remote.acquire(call(0))

    await office.scheduler.set_hold("all", HoldState.PAUSED)
    async with anyio.create_task_group() as group:
        async with follower(office) as remote:
            group.start_soon(ask, remote)
            await until(lambda: len(office.scheduler.queued()) == 1)
            office.reads = False
            remote.note_run(Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0))
            await until(lambda: not remote.waiting_calls)
            office.reads = True
            remote._watching.cancel()  # it reads nothing from here on but what the next lines give
            await office.scheduler.set_hold("all", HoldState.OPEN)
            granted = await remote._mailbox.notifications(ME.id, after=0)
            remote._posting._notifications += granted  # for the iteration that closing does
        await until(lambda: not office.scheduler.statistics().in_flight)
        await (
            office.scheduler.amend()
        )  # the commit that gave it back may run yet; this is a later one
    assert (await office.row(0)).state is CallState.CANCELLED


async def test_a_notification_that_cannot_be_read_lets_nobody_wait_for_what_it_said(
    office: Office, remote: RemoteScheduler
) -> None:
    """It may have been the grant of a call that waits. Its slot comes back; the worker lives."""
    for number in range(2):  # both slots are taken
        await remote.acquire(call(number))
    errors: list[InternalError] = []

    async def wait() -> None:
        try:
            await remote.acquire(call(2))
        except InternalError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until(lambda: sum(office.scheduler.statistics().waiting) == 1)
        broken = Batch(outbox=(OutboxRow(ME.id, "{broken"),))
        await office.scheduler._callers.written(Pending((), broken))
    assert "could not read what the leader told it" in str(errors[0])
    await remote.settle("r-1.0", DONE)
    assert (await remote.acquire(call(3))).id == "r-1.3"
    assert (await office.row(2)).state is CallState.FAILED
