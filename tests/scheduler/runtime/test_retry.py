"""Services beside the pump: what ends them, and what they go on after."""

import logging

import anyio
import pytest

from headway_scheduler.errors import (
    InternalError,
    SchedulerClosed,
    StoreFull,
    StoreReplaced,
    StoreTakenOver,
)
from headway_scheduler.runtime import retry
from headway_scheduler.runtime.retry import keep_serving

pytestmark = pytest.mark.anyio


class Service:
    """Raises one after the other, and then serves."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.serves = anyio.Event()

    async def serve(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.serves.set()
        await anyio.sleep_forever()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.001)


async def test_an_error_that_is_nobodys_is_reported_and_the_service_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(
        RuntimeError("deque mutated"),
        ExceptionGroup("of its tasks", [KeyError("x")]),
        InternalError("of a core"),
    )
    with caplog.at_level(logging.ERROR, "headway"):
        async with anyio.create_task_group() as group:
            group.start_soon(keep_serving, service.serve)
            await service.serves.wait()
            group.cancel_scope.cancel()
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == [
        "deque mutated",
        "of its tasks (1 sub-exception)",
        "of a core",
    ]


async def test_a_database_that_cannot_be_written_is_waited_for_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(StoreFull("no room"), StoreFull("no room"))
    async with anyio.create_task_group() as group:
        group.start_soon(keep_serving, service.serve)
        await service.serves.wait()
        group.cancel_scope.cancel()
    assert not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        StoreTakenOver("another one leads"),
        StoreReplaced("gone"),
        ExceptionGroup("of its tasks", [StoreTakenOver("another one leads")]),
    ],
)
async def test_a_lead_that_is_lost_ends_it(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        await keep_serving(Service(error).serve)
    assert raised.value is error


async def test_it_ends_with_the_scheduler() -> None:
    await keep_serving(Service(SchedulerClosed("closed")).serve)


async def test_it_ends_when_it_is_done() -> None:
    turns: list[int] = []

    async def serve() -> None:
        turns.append(1)

    await keep_serving(serve)
    assert turns == [1]
