"""Conformance of registries of workers: one suite, run on every engine."""

from collections.abc import AsyncIterator

import anyio
import pytest
from tests.scheduler.backends.engines import Engine
from tests.waiting import until

from headway_scheduler.errors import StoreBusy, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.runs import Worker
from headway_scheduler.ports import Presence, Term, WorkerRegistry

pytestmark = pytest.mark.anyio

ME = Worker("w-me", 1, 0.0)


@pytest.fixture
async def term(engine: Engine) -> AsyncIterator[Term]:
    async with await engine.process().leadership().campaign("w-leader") as term:
        yield term


@pytest.fixture
def registry(engine: Engine) -> WorkerRegistry:
    return engine.process().workers()


def present(engine: Engine) -> Presence:
    return engine.process().workers().present(ME.id)


async def until_dead(registry: WorkerRegistry) -> None:
    while ME.id not in await registry.expired([ME.id]):  # noqa: ASYNC110 (a look has no event)
        await anyio.sleep(0.01)


async def test_whoever_is_there_is_alive_and_whoever_is_gone_is_not(
    engine: Engine, term: Term, registry: WorkerRegistry
) -> None:
    assert await registry.expired([]) == frozenset()
    assert await registry.expired([ME.id, "w-nobody"]) == {ME.id, "w-nobody"}
    assert await registry.silent_seconds(ME.id) is None
    async with present(engine):
        for _ in range(3):
            assert await registry.expired([ME.id, "w-nobody"]) == {"w-nobody"}
        assert await registry.silent_seconds(ME.id) is not None
        with pytest.raises(StoreBusy):
            async with present(engine):
                pytest.fail("twice there")
        assert await registry.expired([ME.id]) == frozenset()
    assert await registry.expired([ME.id]) == {ME.id}
    async with present(engine):
        assert await registry.expired([ME.id]) == frozenset()


async def test_one_that_is_silent_for_long_is_dead(
    engine: Engine, term: Term, registry: WorkerRegistry
) -> None:
    async with present(engine) as presence:
        assert await registry.expired([ME.id]) == frozenset()
        engine.stop(presence)
        await until_dead(registry)
        assert await registry.silent_seconds(ME.id) is not None


async def test_one_that_is_killed_is_dead_at_once_and_leaves_nothing(
    engine: Engine, term: Term, registry: WorkerRegistry
) -> None:
    presence = present(engine)
    await presence.__aenter__()
    assert await registry.expired([ME.id]) == frozenset()
    engine.kill(presence)
    assert await registry.expired([ME.id]) == {ME.id}
    async with engine.process().workers().present("w-other"):
        await registry.tidy([])
        assert await registry.silent_seconds(ME.id) is None
        assert await registry.expired(["w-other"]) == frozenset()


async def test_contact_is_a_heartbeat_that_found_the_worker_listed(
    engine: Engine, term: Term
) -> None:
    async with present(engine) as presence:
        opened = presence.contact_at
        await anyio.sleep(0.1)  # heartbeats find no row
        assert presence.contact_at == opened
        with pytest.raises(StoreTakenOver):
            await presence.confirm()
        await term.store.commit(Batch(joined=(ME,)))
        await until(lambda: presence.contact_at != opened)
        engine.stop(presence)
        stopped = presence.contact_at
        await anyio.sleep(0.1)
        assert presence.contact_at == stopped
        await presence.confirm()
        assert presence.contact_at > stopped


async def test_one_that_others_took_for_dead_has_no_contact_and_is_told(
    engine: Engine, term: Term
) -> None:
    await term.store.commit(Batch(joined=(ME,)))
    async with present(engine) as presence:
        await presence.confirm()
        await term.store.commit(Batch(left=(ME.id,)))
        lost = presence.contact_at
        await anyio.sleep(0.1)  # its heart beats on
        assert presence.contact_at - lost < 0.1
        lost = presence.contact_at
        with pytest.raises(StoreTakenOver, match=ME.id):
            await presence.confirm()
        assert presence.contact_at == lost
