"""What workers tell the leader: their clocks are not believed."""

from collections.abc import AsyncIterator
from dataclasses import replace
from math import inf

import pytest

from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Worker
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import MarkSent, Message, Observe, Settle, Submit
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

NOW = 1_772_366_400.0
YEAR = 365 * 86_400.0
LATEST = NOW + LONGEST_STATED_SECONDS
WORKER = Worker("w-1", 1, NOW)
QUOTA = Quota.per_minute("q", requests=600, tokens=100_000, concurrency=2)
AGAIN = Outcome(CallState.QUEUED, error="503")


def call(submitted_at: float = NOW, quota: str = "q") -> Call:
    return Call("r.0", "r", "writer", "m", (quota,), Priority.NORMAL, 10, submitted_at)


class Leader:
    """A leader whose time stands still, and a worker that tells it something."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.scheduler = LocalScheduler(self.store, [QUOTA], clock=lambda: NOW)

    async def told(self, *messages: Message, age: float = inf) -> CallRecord:
        """The row of the call once the leader has taken what the worker tells."""
        batch = MessageBatch(WORKER.id, messages, joins=WORKER)
        await self.scheduler.workers.deliver(7, batch, age=age).wait()
        (row,) = await self.store.calls("r")
        return row


@pytest.fixture
async def leader() -> AsyncIterator[Leader]:
    leader = Leader()
    async with leader.store, leader.scheduler:
        yield leader


@pytest.mark.parametrize(
    ("told", "age", "stamped"),
    [
        (NOW - 5, inf, NOW - 5),
        (NOW - YEAR, inf, NOW - YEAR),
        (NOW + YEAR, inf, NOW),
        (NOW - 5, 10.0, NOW - 5),
        (NOW - YEAR, 10.0, NOW - 10),
        (NOW + YEAR, 10.0, NOW),
    ],
)
async def test_a_time_that_has_passed_is_between_the_letter_and_now(
    leader: Leader, told: float, age: float, stamped: float
) -> None:
    assert (await leader.told(Submit(call(told)), age=age)).call.submitted_at == stamped
    assert (await leader.told(MarkSent("r.0", told), age=age)).sent_at == stamped


@pytest.mark.parametrize(
    ("told", "stamped"), [(NOW + 60, NOW + 60), (LATEST, LATEST), (NOW + YEAR, LATEST)]
)
async def test_a_call_goes_again_within_the_longest_time_that_a_provider_may_state(
    leader: Leader, told: float, stamped: float
) -> None:
    await leader.told(Submit(call()))
    row = await leader.told(Settle("r.0", replace(AGAIN, not_before=told)))
    assert (row.state, row.not_before) == (CallState.QUEUED, stamped)


@pytest.mark.parametrize("is_the_end", [False, True])
@pytest.mark.parametrize(
    ("told", "stamped"), [(NOW + 60, NOW + 60), (LATEST, LATEST), (NOW + YEAR, LATEST)]
)
async def test_a_quota_pauses_no_longer_than_a_provider_may_state(
    leader: Leader, told: float, stamped: float, is_the_end: bool
) -> None:
    signals = {"q": Observation(told, ProviderEvent.REFUSED)}
    await leader.told(Submit(call()))
    message = Settle("r.0", AGAIN, signals) if is_the_end else Observe("r.0", signals)
    await leader.told(message)
    assert leader.scheduler.statistics().gauges[0].paused_until == stamped
