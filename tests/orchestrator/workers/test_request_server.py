"""Requests are taken by "has no answer and is not in hand", each once, of every engine."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import anyio
import pytest
from tests.scheduler.backends.engines import DEAF, ENGINES, Engine

from headway.workers.leader_commands import LeaderCommands
from headway.workers.request_server import RequestServer
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import StoreBusy, StoreTakenOver
from headway_scheduler.model.batch import Batch, Letter
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import Change
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import LEADER, Mailbox, Store
from headway_scheduler.protocol.codec import dump
from headway_scheduler.protocol.commands import CancelRun, Command, PauseRun, QueueRun
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import SaveRun
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

QUOTAS = (Quota.per_minute("q", requests=600),)


@pytest.fixture(params=[*ENGINES, *DEAF])
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    return (ENGINES | DEAF)[request.param](tmp_path, monkeypatch)


async def nothing(_: Command) -> None:
    pass


@dataclass
class Served:
    """A leader that takes requests; what is commanded is noted, and done by ``act``."""

    engine: Engine
    store: Store
    scheduler: LocalScheduler
    sender: Mailbox
    commanded: list[Command] = field(default_factory=list)
    act: Callable[[Command], Awaitable[None]] = nothing

    async def execute(self, command: Command, *, waits: bool = True) -> Change | None:
        self.commanded.append(command)
        await self.act(command)
        return None

    async def post(self, command: Command) -> int:
        return await self.sender.post("c-1", dump(command))

    async def answered(self, *request_ids: int) -> None:
        for request_id in request_ids:
            while await self.sender.answer(request_id) is None:  # noqa: ASYNC110 (a row)
                await anyio.sleep(0.002)


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[Served]:
    backend = engine.process()
    async with (
        await backend.leadership().campaign("w-leader") as term,
        LocalScheduler(term.store, QUOTAS) as scheduler,
        backend.notifier(LEADER) as notifier,
        anyio.create_task_group() as group,
    ):
        mailbox, sender = backend.mailbox(term.epoch), engine.process().mailbox()
        served = Served(engine, term.store, scheduler, sender)
        server = RequestServer(mailbox, notifier, scheduler, cast(LeaderCommands, served))
        await server.take_all()
        await server.end_runs()
        group.start_soon(server.serve, group)
        try:
            yield served
        finally:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await sender.close()
                await mailbox.close()


async def test_what_takes_long_is_carried_out_once_and_others_pass(engine: Engine) -> None:
    async with serving(engine) as served:
        over = anyio.Event()

        async def wait(command: Command) -> None:
            if isinstance(command, CancelRun):
                await over.wait()

        served.act = wait
        long = await served.post(CancelRun("r-1"))
        short = [await served.post(PauseRun(f"r-{n}")) for n in range(2, 5)]
        await served.answered(*short)
        assert await served.sender.answer(long) is None
        over.set()
        await served.answered(long)
        assert [each.run_id for each in served.commanded if isinstance(each, CancelRun)] == ["r-1"]
        assert len(served.commanded) == 4


async def test_one_that_appears_under_a_lower_id_is_carried_out_too(engine: Engine) -> None:
    """Other engines hand out ids before they commit: the later one may appear first."""
    async with serving(engine) as served:
        first = await served.post(PauseRun("r-1"))
        await served.answered(first)
        for request_id in (first + 9, first + 4, first + 7):
            text = dump(PauseRun(f"r-{request_id}"))
            engine.appear(Letter(request_id, "c-2", text))
            await served.answered(request_id)
        assert len(served.commanded) == 4
        last = await served.post(PauseRun("r-last"))
        await served.answered(last)
        assert len(served.commanded) == 5


async def test_requests_of_one_sender_are_carried_out_in_their_order(engine: Engine) -> None:
    async with serving(engine) as served:
        ids = [await served.post(PauseRun(f"r-{n}")) for n in range(120)]
        await served.answered(*ids)
        assert served.commanded == [PauseRun(f"r-{n}") for n in range(120)]


async def test_what_cannot_be_written_stays_in_hand_and_is_written_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.workers.request_server.RETRY_SECONDS", 0.01)
    async with serving(engine) as served:
        commits: list[Batch] = []
        failures = 3
        kind = type(served.store)
        assert issubclass(kind, MemoryStore | SqliteStore)
        commit = kind.commit

        async def commit_later(store: Store, batch: Batch) -> None:
            nonlocal failures
            if batch.taken and failures:
                failures -= 1
                raise StoreBusy("another program keeps it locked")
            await commit(store, batch)  # type: ignore[arg-type]
            commits.append(batch)

        monkeypatch.setattr(kind, "commit", commit_later)
        run = Run("r-1", "w", "t", Priority.LOW, RunState.RUNNING, 1.0, worker="w-1")
        batch = MessageBatch("w-1", (SaveRun(run),), joins=Worker("w-1", 1, 0.0))
        await served.sender.post("w-1", dump(batch))
        while not await served.store.run("r-1"):  # noqa: ASYNC110 (a row)
            await anyio.sleep(0.002)
        await served.answered(await served.post(QueueRun(run)))
        assert [batch.taken for batch in commits if batch.taken] == [(1,)]
        assert failures == 0


async def test_one_whose_lead_was_taken_takes_no_more(engine: Engine) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await taken_over(engine)
    assert raised.group_contains(StoreTakenOver)


async def taken_over(engine: Engine) -> None:
    backend = engine.process()
    async with await backend.leadership().campaign("w-1") as term:
        engine.stop(term)
        leadership = engine.process().leadership()
        vacancy = await leadership.vacant()
        mailbox = backend.mailbox(term.epoch)
        async with (
            LocalScheduler(term.store, QUOTAS) as scheduler,
            backend.notifier(LEADER) as notifier,
            anyio.create_task_group() as group,
        ):
            served = Served(engine, term.store, scheduler, mailbox)
            server = RequestServer(mailbox, notifier, scheduler, cast(LeaderCommands, served))
            await server.take_all()
            await server.end_runs()
            group.start_soon(server.serve, group)
            async with await leadership.campaign("w-2", vacancy):
                sender = engine.process().mailbox()
                await sender.post("c-1", dump(PauseRun("r-1")))
                await sender.close()
                await anyio.sleep_forever()
