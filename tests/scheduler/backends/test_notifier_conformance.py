"""Conformance of notifiers: one suite, run on every engine, also where rings are lost."""

from collections.abc import AsyncIterator

import anyio
import pytest
from tests.scheduler.backends.engines import Engine

from headway_scheduler.model.batch import Batch, OutboxRow
from headway_scheduler.model.runs import Worker
from headway_scheduler.ports import LEADER, Term

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine(engine_or_deaf: Engine) -> Engine:
    return engine_or_deaf


@pytest.fixture
async def term(engine: Engine) -> AsyncIterator[Term]:
    async with await engine.process().leadership().campaign("w-leader") as term:
        yield term


async def test_whoever_waits_learns_of_a_request(engine: Engine, term: Term) -> None:
    leader = engine.process()
    mailbox, sender = leader.mailbox(term.epoch), engine.process().mailbox()
    async with leader.notifier(LEADER) as notifier:
        for n in range(3):
            await sender.post("c-1", f"{n}")
            while not [each for each in await mailbox.waiting(()) if each.event == f"{n}"]:
                await notifier.wait()
    await mailbox.close()
    await sender.close()


async def test_a_worker_that_waits_learns_what_it_is_told(engine: Engine, term: Term) -> None:
    worker, leader = engine.process(), engine.process().notifier(LEADER)
    await term.store.commit(Batch(joined=(Worker("w-1", 1, 0.0),)))
    mailbox, read = worker.mailbox(), 0
    async with worker.notifier("w-1") as notifier, anyio.create_task_group() as group:

        async def tell() -> None:
            for n in range(3):
                await term.store.commit(Batch(outbox=(OutboxRow("w-1", f"{n}"),)))
                leader.ring("w-1")
                await anyio.sleep(0.01)

        group.start_soon(tell)
        texts: list[str] = []
        while len(texts) < 3:
            told = await mailbox.notifications("w-1", read)
            read = told[-1][0] if told else read
            texts += [text for _, text in told]
            if not told:
                await notifier.wait()
    await mailbox.close()
    assert texts == ["0", "1", "2"]


async def test_a_hint_that_comes_before_the_wait_is_not_lost(engine: Engine, term: Term) -> None:
    async with engine.process().notifier("w-1") as notifier:
        await term.store.commit(Batch(joined=(Worker("w-1", 1, 0.0),)))
        engine.process().notifier(LEADER).ring("w-1")
        await notifier.wait()


async def test_nobody_need_be_there_to_be_rung(engine: Engine, term: Term) -> None:
    notifier = engine.process().notifier(LEADER)
    notifier.ring("w-nobody")
    async with engine.process().notifier("w-1"):
        pass
    notifier.ring("w-1")


async def test_whoever_listens_later_is_rung_and_goes_on_when_the_other_leaves(
    engine: Engine, term: Term
) -> None:
    """A leader that was stopped and replaced leaves when it wakes up."""
    sender = engine.process().mailbox()
    earlier, later = (engine.process().notifier(LEADER) for _ in range(2))
    async with earlier, later:
        await sender.post("c-1", "please")
        await later.wait()
        await earlier.__aexit__()
        await sender.post("c-1", "and this")
        await later.wait()
        await earlier.__aenter__()
    await sender.close()
