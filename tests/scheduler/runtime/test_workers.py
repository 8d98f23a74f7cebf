"""The leader takes messages of workers, and does not believe their clocks."""

from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest
from tests.odd import unchecked

from headway_scheduler.backends import open_backend
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.codec import load_notification
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import MarkSent, Message, Observe, SaveRun, Settle, Submit
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

NOW = 1_772_366_400.0
YEAR = 365 * 86_400.0
LATEST = NOW + LONGEST_STATED_SECONDS
WORKER = Worker("w-1", 1, NOW)
QUOTA = Quota.per_minute("q", requests=600, tokens=100_000, concurrency=2)
WIDE = Quota.per_minute("q", requests=600, concurrency=50)
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
async def test_a_time_that_has_passed_is_between_the_request_and_now(
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


async def test_what_a_database_refuses_of_a_batch_is_refused_alone(tmp_path: Path) -> None:
    """The other messages of the batch stand, and the end of a call becomes a failure."""
    ends = Outcome(CallState.DONE, Usage(1, 1), "answer", arrival=0)
    odd = unchecked(Usage, input_tokens=2**63, output_tokens=1)
    calls = [replace(call(), id=f"r.{number}") for number in range(4)]
    async with (
        SqliteStore(tmp_path / "headway.db") as store,
        LocalScheduler(store, [WIDE]) as scheduler,
    ):
        deliver = scheduler.workers.deliver
        batch = MessageBatch(WORKER.id, tuple(map(Submit, calls)), joins=WORKER)
        await deliver(1, batch).wait()
        run = Run("r", "w", "t", Priority.LOW, RunState.RUNNING, 1.0)
        told = MessageBatch(
            WORKER.id,
            (
                Settle("r.0", ends),
                Submit(replace(calls[0], id="r.9", tokens=2**63)),
                Settle("r.1", replace(ends, usage=odd, arrival=1)),
                SaveRun(run),
                Settle("r.2", replace(ends, arrival=2)),
            ),
        )
        await deliver(2, told).wait()
        rows = {row.call.id: (row.state, row.answer) for row in await store.calls("r")}
        assert rows["r.0"] == rows["r.2"] == (CallState.DONE, "answer")
        assert rows["r.1"] == (CallState.FAILED, None)
        assert "r.9" not in rows
        assert await store.run("r") == run
        assert scheduler.statistics().in_flight == 1
        mailbox = open_backend(str(tmp_path / "headway.db")).mailbox()
        notifications = [
            load_notification(text) for _, text in await mailbox.notifications("w-1", 0)
        ]
        await mailbox.close()
        handled = [each for told in notifications for each in told.handled if each.request_id == 2]
        (refusal,) = handled[0].refusals
        assert (refusal.index, refusal.error.error) == (1, "RowRefused")
