"""A test that hangs fails, and says where; what asyncio can only log fails a test as well."""

import asyncio
import gc
import sys
import traceback
from typing import Any

import anyio
import pytest
from tests.waiting import bounded, until

pytestmark = pytest.mark.anyio


async def test_a_test_that_waits_for_ever_fails_and_shows_the_line() -> None:
    async def waits() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await until(lambda: False)

    with pytest.raises(TimeoutError, match=r"hung.* 0\.05 s") as raised:
        await bounded(waits, 0.05)()
    cause = raised.value.__cause__
    assert cause is not None
    assert "await until(lambda: False)" in "".join(traceback.format_exception(cause))


async def test_what_a_test_fails_with_is_what_is_told() -> None:
    async def fails(number: int) -> None:
        assert number == 2, "no"

    with pytest.raises(AssertionError, match="no"):
        await bounded(fails)(number=1)
    await bounded(fails)(number=2)


def test_what_asyncio_can_only_log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    async def fails() -> None:
        raise ValueError("no")

    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    async def forgets() -> None:
        tasks = [asyncio.create_task(fails()), asyncio.create_task(waits())]
        await until(tasks[0].done)
        del tasks
        gc.collect()

    asyncio.run(forgets())
    assert {each.exc_type for each in told} == {ValueError, type(None)}
    assert any("was destroyed but it is pending" in each.err_msg for each in told)
