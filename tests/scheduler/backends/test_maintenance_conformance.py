"""Conformance of maintenance: one suite, run on every engine."""

from pathlib import Path

import pytest
from tests.scheduler.backends.engines import Engine

from headway_scheduler.errors import StoreBusy, StoreError
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority

pytestmark = pytest.mark.anyio

CALL = CallRecord(Call("call", "run", "writer", "small", ("q",), Priority.NORMAL, 10, 1.0), 1)


async def test_a_database_in_use_is_looked_over_and_not_changed(engine: Engine) -> None:
    maintenance = engine.process().maintenance()
    async with await engine.process().leadership().campaign("w-1") as term:
        await term.store.commit(Batch(new=(CALL,)))
        assert list(await maintenance.problems()) == []
        for change in (maintenance.compact, maintenance.migrate):
            with pytest.raises(StoreBusy):
                await change()
        assert all(finding.ok for finding in await maintenance.findings())
        assert len(await term.store.calls()) == 1


async def test_one_that_nobody_uses_keeps_what_it_has(engine: Engine) -> None:
    maintenance = engine.process().maintenance()
    async with await engine.process().leadership().campaign("w-1") as term:
        await term.store.commit(Batch(new=(CALL,)))
    assert await maintenance.compact() >= 0
    assert list(await maintenance.migrate()) == []
    async with engine.process().reader() as reader:
        assert len(await reader.calls()) == 1


async def test_a_copy_overwrites_nothing(engine: Engine, tmp_path: Path) -> None:
    async with await engine.process().leadership().campaign("w-1"):
        pass
    target = tmp_path / "copy"
    target.write_text("precious")
    with pytest.raises(StoreError):
        await engine.process().maintenance().back_up(str(target))
    assert target.read_text() == "precious"
