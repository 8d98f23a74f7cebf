"""Conformance of leadership and terms: one suite, run on every engine."""

import anyio
import pytest
from tests.scheduler.backends.engines import Engine

from headway_scheduler.errors import StoreBusy, StoreError, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.ports import Leadership, Store, Vacancy

pytestmark = pytest.mark.anyio


def batch(seq: int) -> Batch:
    call = Call(f"call-{seq}", "run", "writer", "small", ("q",), Priority.NORMAL, 10, 1.0)
    return Batch(new=(CallRecord(call, seq),))


async def seqs(store: Store) -> list[int]:
    return [record.seq for record in await store.calls()]


async def refused(leadership: Leadership, vacancy: Vacancy | None = None) -> None:
    with pytest.raises(StoreBusy):
        await leadership.campaign("w-refused", vacancy)


async def test_one_leads_at_a_time_and_each_term_has_a_higher_epoch(engine: Engine) -> None:
    first, second = engine.process().leadership(), engine.process().leadership()
    async with await first.campaign("w-1") as term:
        with pytest.raises(StoreBusy, match=engine.process().name):
            await second.campaign("w-2")
        before = term.epoch
    async with await second.campaign("w-2") as term:
        assert term.epoch > before
        await refused(first)


async def test_it_is_known_who_leads(engine: Engine) -> None:
    leadership = engine.process().leadership()
    assert await leadership.holder() is None
    async with await engine.process().leadership().campaign("w-1"):
        holder = await leadership.holder()
        assert holder is not None
        assert (holder.worker_id, holder.text != "") == ("w-1", True)
    assert await leadership.holder() is None


async def test_a_vacancy_is_there_until_somebody_leads_and_when_nobody_does_any_more(
    engine: Engine,
) -> None:
    watcher = engine.process().leadership()
    vacancy = watcher.look()
    assert vacancy is not None
    term = await engine.process().leadership().campaign("w-1", vacancy)
    async with term, anyio.create_task_group() as group:
        assert [watcher.look() for _ in range(3)] == [None] * 3
        with anyio.move_on_after(0.05) as scope:
            await watcher.vacant()
        assert scope.cancelled_caught
        group.start_soon(watcher.vacant)
        await term.__aexit__(None, None, None)
    async with await watcher.campaign("w-2", await watcher.vacant()):
        pass


async def test_a_silent_leader_is_replaced_and_writes_nothing_any_more(engine: Engine) -> None:
    async with await engine.process().leadership().campaign("w-1") as silent:
        await silent.store.commit(batch(0))
        engine.stop(silent)
        watcher = engine.process().leadership()
        vacancy = await watcher.vacant()
        await refused(watcher)  # without saying whom it replaces
        async with await watcher.campaign("w-2", vacancy) as term:
            await term.store.commit(batch(1))
            for _ in range(2):
                with pytest.raises(StoreTakenOver, match="another process took over"):
                    await silent.store.commit(batch(2))
            assert await seqs(term.store) == await seqs(silent.store) == [0, 1]
            mailbox = engine.process().mailbox(silent.epoch)
            with pytest.raises(StoreTakenOver):
                await mailbox.waiting(())
            await mailbox.close()
            # Going away, it does not take the place with it.
            await silent.__aexit__(None, None, None)
            await refused(watcher, vacancy)
            holder = await watcher.holder()
            assert holder is not None
            assert holder.worker_id == "w-2"
            await term.store.commit(batch(3))


async def test_a_leader_that_shows_life_again_is_not_replaced(engine: Engine) -> None:
    async with await engine.process().leadership().campaign("w-1") as term:
        engine.stop(term)
        watcher = engine.process().leadership()
        vacancy = await watcher.vacant()
        engine.wake(term)
        await refused(watcher, vacancy)
        await term.store.commit(batch(0))


async def test_a_vacancy_is_of_one_leader_and_not_of_the_next(engine: Engine) -> None:
    watcher = engine.process().leadership()
    async with await engine.process().leadership().campaign("w-1") as silent:
        engine.stop(silent)
        vacancy = await watcher.vacant()
    async with await engine.process().leadership().campaign("w-2") as term:
        engine.stop(term)
        await refused(watcher, vacancy)
        await term.store.commit(batch(0))


async def test_readers_see_what_the_leader_commits_and_write_nothing(engine: Engine) -> None:
    async with await engine.process().leadership().campaign("w-1") as term:
        async with engine.process().reader() as reader:
            await term.store.commit(batch(0))
            assert await seqs(reader) == [0]
            with pytest.raises(StoreError, match="read only"):
                await reader.commit(batch(1))
            assert abs(reader.clock() - term.store.clock()) < 60
        assert await seqs(term.store) == [0]
    async with engine.process().reader() as reader:
        assert await seqs(reader) == [0]


async def test_whoever_is_cancelled_while_it_waits_for_a_vacancy_does_not_lead(
    engine: Engine,
) -> None:
    async with await engine.process().leadership().campaign("w-1"):
        with anyio.move_on_after(0.05):
            await engine.process().leadership().vacant()
    async with await engine.process().leadership().campaign("w-2"):
        pass


async def test_starts_are_counted_until_one_comes_to_its_end(engine: Engine) -> None:
    lost = []
    for begins in (False, False, True, False, False):
        async with await engine.process().leadership().campaign("w-1") as term:
            lost.append(term.lost_starts)
            await term.store.commit(Batch(begins=begins) if begins else batch(len(lost)))
    assert lost == [0, 1, 2, 0, 1]
