"""Rows that no Headway has written: each harms what it belongs to, and is found and set aside."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headway_scheduler.backends import open_backend
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import RunNotFound, StoreBusy, StoreCorrupt
from headway_scheduler.model.batch import Batch, Lesson, OutboxRow
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.changes import weight
from headway_scheduler.model.data import replace
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.notices import Notice, NoticeKind
from headway_scheduler.model.quotas import BucketState, Quota, Resource
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.schedules import Schedule, ScheduleState
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.codec import load_notification
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

NOW = 1_772_366_400.0


def run(run_id: str, created_at: float = NOW) -> Run:
    return Run(run_id, "w", "t", Priority.NORMAL, RunState.QUEUED, created_at, key=f"key {run_id}")


def record(seq: int, run_id: str, state: CallState = CallState.QUEUED) -> CallRecord:
    call = Call(f"{run_id}.{seq}", run_id, "a", "m", ("q",), Priority.NORMAL, 10, NOW)
    return CallRecord(call, seq, state)


BATCH = Batch(
    new=(record(0, "r-good"), record(1, "r-bad"), record(2, "r-good", CallState.SENT)),
    runs=(run("r-good"), run("r-bad", NOW + 1)),
    buckets=(
        BucketState("q", Resource.REQUESTS, 5.0, NOW),
        BucketState("bad", Resource.REQUESTS, 5.0, NOW),
    ),
    changes=(weight("good", 2.0, NOW), weight("bad", 3.0, NOW)),
    lessons=(
        Lesson("tokens", "good", '{"ratio": 0.25, "output": 9.0}'),
        Lesson("tokens", "bad", '{"ratio": 0.25, "output": 9.0}'),
    ),
    joined=(Worker("w-good", 1, NOW), Worker("w-bad", 2, NOW)),
    schedules=(
        ScheduleState(Schedule("good", "0 3 * * *", "UTC", run("")), NOW),
        ScheduleState(Schedule("bad", "0 3 * * *", "UTC", run("")), NOW),
    ),
    notices=(
        Notice("good", NoticeKind.RUN_ENDED, NOW, "{}"),
        Notice("bad", NoticeKind.RUN_ENDED, NOW, "{}"),
    ),
    outbox=(OutboxRow("w-good", '{"type": "Notification"}'),),
)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "headway.db"
    async with SqliteStore(path) as store:
        await store.commit(BATCH)
    return path


def spoil(path: Path, statement: str, *values: object) -> None:
    """Write as another program would."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(statement, values).rowcount == 1
        db.commit()


RUNS = {
    "unknown state": "state = 'bogus'",
    "unknown class": "priority = 99",
    "infinite time": "created_at = 9e999",
    "time that no calendar has": "started_at = 1e300",
    "history that is no JSON": "history = '[\"a'",
    "history that is no list": "history = '{}'",
    "parameters that are no object": "parameters = '[1]'",
    "parameters with NaN": "parameters = '{\"x\": NaN}'",
    "deeply nested parameters": f"parameters = '{'[' * 100_000}'",
    "text that is no UTF-8": "task = CAST(x'ff41' AS TEXT)",
    "infinite budget": "budget_usd = 9e999",
    "count above all": "attempts = 9223372036854775807",
}
CALLS = {
    "unknown state": "state = 'bogus'",
    "quotas that are no JSON": "quotas = 'q'",
    "quotas that are no texts": "quotas = '[1]'",
    "half a usage": "input_tokens = 5",
    "tokens above all": "tokens = 9223372036854775807",
    "infinite time": "submitted_at = -9e999",
    "text that is no UTF-8": "path = CAST(x'fe' AS TEXT)",
}
OTHERS = {
    "limit": "UPDATE buckets SET available = 9e999 WHERE quota = 'bad'",
    "fill above all": "UPDATE buckets SET available = -1e308 WHERE quota = 'bad'",
    "limit of nothing": "UPDATE buckets SET resource = 'bogus' WHERE quota = 'bad'",
    "change": "UPDATE changes SET value = '{' WHERE target = 'bad'",
    "change of nothing": "UPDATE changes SET kind = 'bogus' WHERE target = 'bad'",
    "weight": "UPDATE changes SET value = '-1' WHERE target = 'bad'",
    "lesson": "UPDATE lessons SET value = '{\"ratio\": 1e999}' WHERE subject = 'bad'",
    "worker": "UPDATE workers SET workflows = 'x' WHERE id = 'w-bad'",
    "worker that no file can be named after": "UPDATE workers SET id = 'w/bad' WHERE id = 'w-bad'",
    "schedule": "UPDATE schedules SET run = '{' WHERE name = 'bad'",
    "schedule of no time": "UPDATE schedules SET next_at = 1e300 WHERE name = 'bad'",
    "schedule of no policy": "UPDATE schedules SET overlap = 'bogus' WHERE name = 'bad'",
    "notice": "UPDATE notices SET data = '[]' WHERE id = 'bad'",
    "notice of nothing": "UPDATE notices SET kind = 'bogus' WHERE id = 'bad'",
    "request": "INSERT INTO inbox (sender, event) VALUES ('c-bad', '{broken')",
    "batch": "INSERT INTO inbox (sender, event) VALUES ('w-good', CAST(x'ff' AS TEXT))",
    "notification": "INSERT INTO outbox (worker, text) VALUES ('w-good', '{\"type\": 1}')",
}


def aside(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT kind, name, why, row FROM set_aside").fetchall()


async def check_the_rest(path: Path) -> None:
    """Everything that is not spoiled is there, and a scheduler begins with it."""
    async with SqliteStore(path, read_only=True) as store:
        assert await store.run("r-good") == run("r-good")
        assert [each.call.id for each in await store.calls("r-good")] == ["r-good.0", "r-good.2"]
        assert "good" in [each.name for each in await store.schedules()]
        assert "good" in [each.id for each in await store.notices()]
        assert "w-good" in [each.id for each in await store.workers()]
        snapshot = await store.snapshot()
        assert [each.call.id for each in snapshot.calls if each.call.run_id == "r-good"] == [
            "r-good.0",
            "r-good.2",
        ]
        assert {each.subject for each in snapshot.lessons} >= {"good"}
        assert {each.target for each in snapshot.changes} >= {"good"}
        # As many as were asked for, although the newest cannot be read.
        assert "r-good" in [each.id for each in await store.runs(limit=2)]
        assert [each.id for each in await store.runs({RunState.QUEUED}, limit=1)]
        assert await store.runs({RunState.QUEUED}, limit=1, urgent_first=True)
    async with SqliteStore(path) as store:
        quotas = [Quota.per_minute("q", requests=600)]
        async with LocalScheduler(store, quotas, clock=store.clock) as scheduler:
            assert scheduler.statistics().parked >= 1
            await scheduler.save_run(run("r-new"))


async def repaired(path: Path) -> list[str]:
    maintenance = open_backend(path).maintenance()
    found = [str(row) for row in await maintenance.repair()]
    assert await maintenance.problems() == []
    assert [str(row) for row in await maintenance.set_aside()] == found
    assert await maintenance.repair() == []
    return found


@pytest.mark.parametrize("spoiled", RUNS.values(), ids=RUNS)
async def test_a_run_that_cannot_be_read_is_left_aside(path: Path, spoiled: str) -> None:
    spoil(path, f"UPDATE runs SET {spoiled} WHERE id = 'r-bad'")
    await check_the_rest(path)
    async with SqliteStore(path, read_only=True) as store:
        assert [each.id for each in await store.runs()][-1] == "r-good"
        assert [row.id for row in store.unreadable] == ["r-bad"]
        for asked in ("r-bad", "r-b"):
            with pytest.raises(StoreCorrupt, match=r"run r-bad cannot be read .*db repair"):
                await store.run(asked)
        with pytest.raises(StoreCorrupt, match="r-bad"):
            await store.run_with_key("key r-bad")
    (problem,) = await open_backend(path).maintenance().problems()
    assert problem.startswith("run r-bad cannot be read")
    assert await repaired(path) == [problem]
    ((kind, name, _, row),) = aside(path)
    assert (kind, name, json.loads(row)["workflow"]) == ("run", "r-bad", "w")
    async with SqliteStore(path, read_only=True) as store:
        assert await store.run("r-bad") is None
        (call,) = await store.calls("r-bad")
        assert call.state is CallState.CANCELLED


@pytest.mark.parametrize("spoiled", CALLS.values(), ids=CALLS)
async def test_a_call_that_cannot_be_read_harms_its_run_alone(path: Path, spoiled: str) -> None:
    spoil(path, f"UPDATE calls SET {spoiled} WHERE id = 'r-bad.1'")
    await check_the_rest(path)
    async with SqliteStore(path, read_only=True) as store:
        # Its run must not go on without it: it may be an answer that was paid.
        with pytest.raises(StoreCorrupt, match=r"call r-bad\.1 cannot be read"):
            await store.calls("r-bad")
        assert len(await store.calls()) == 2
    assert (await repaired(path))[0].startswith("call r-bad.1 cannot be read")
    async with SqliteStore(path, read_only=True) as store:
        assert await store.calls("r-bad") == []


async def test_a_place_in_the_queue_above_all_leaves_room_behind_it(path: Path) -> None:
    spoil(path, "UPDATE calls SET seq = 9223372036854775807 WHERE id = 'r-bad.1'")
    await check_the_rest(path)
    async with SqliteStore(path) as store:
        assert (await store.snapshot()).next_seq == 3
    assert (await repaired(path))[0].startswith("call r-bad.1")


@pytest.mark.parametrize("statement", OTHERS.values(), ids=OTHERS)
async def test_any_other_row_that_cannot_be_read_is_named_and_set_aside(
    path: Path, statement: str
) -> None:
    spoil(path, statement)
    await check_the_rest(path)
    (problem,) = await open_backend(path).maintenance().problems()
    assert "cannot be read" in problem
    assert await repaired(path) == [problem]


async def test_an_answer_that_is_not_there_is_asked_for_again(path: Path) -> None:
    spoil(path, "UPDATE calls SET state = 'done' WHERE id = 'r-bad.1'")
    (problem,) = await open_backend(path).maintenance().problems()
    assert problem == "an answer is marked as done and is not there: call r-bad.1"
    why = "it is marked as done, and its answer is not there"
    assert await repaired(path) == [f"call r-bad.1 cannot be read ({why})"]
    ((kind, name, _, row),) = aside(path)
    assert (kind, name, json.loads(row)["run_id"]) == ("call", "r-bad.1", "r-bad")
    await check_the_rest(path)
    async with SqliteStore(path, read_only=True) as store:
        assert await store.run("r-bad") == run("r-bad", NOW + 1)
        assert await store.calls("r-bad") == []


async def test_a_call_that_waits_in_a_run_that_has_ended_is_set_aside(path: Path) -> None:
    spoil(path, "UPDATE runs SET state = 'completed' WHERE id = 'r-bad'")
    (problem,) = await open_backend(path).maintenance().problems()
    assert problem == "a call waits in a run that has ended: call r-bad.1"
    why = "it waits in a run that has ended"
    assert await repaired(path) == [f"call r-bad.1 cannot be read ({why})"]
    async with SqliteStore(path, read_only=True) as store:
        assert (await store.run("r-bad")).state is RunState.COMPLETED  # type: ignore[union-attr]


async def test_a_copy_of_a_run_that_is_gone_is_set_aside_with_its_copies(path: Path) -> None:
    copies = tuple(
        replace(run(f"r-copy{n}", NOW + 2), parent=parent)
        for n, parent in enumerate(("r-bad", "r-copy0", "r-good"))
    )
    async with SqliteStore(path) as store:
        await store.commit(Batch(runs=copies))
    spoil(path, "UPDATE runs SET priority = 99 WHERE id = 'r-bad'")
    found = await repaired(path)
    assert [each.partition(" cannot")[0] for each in found] == [
        *("run r-bad", "run r-copy0", "run r-copy1")
    ]
    assert found[1].endswith("(it is a copy of a run that is gone)")
    await check_the_rest(path)
    async with SqliteStore(path, read_only=True) as store:
        assert {each.id for each in await store.runs()} == {"r-good", "r-copy2", "r-new"}


async def test_a_worker_whose_batch_is_set_aside_is_told(path: Path) -> None:
    spoil(path, OTHERS["batch"])
    await repaired(path)
    mailbox = open_backend(path).mailbox()
    *_, (_, text) = await mailbox.notifications("w-good", 0)
    await mailbox.close()
    (handled,) = load_notification(text).handled
    assert (handled.request_id, bool(handled.unreadable)) == (1, True)


async def test_it_is_not_repaired_under_a_leader(path: Path) -> None:
    spoil(path, "UPDATE runs SET priority = 99 WHERE id = 'r-bad'")
    async with SqliteStore(path):
        with pytest.raises(StoreBusy, match="while no process leads"):
            await open_backend(path).maintenance().repair()
    assert len(await repaired(path)) == 1


async def test_of_values_of_another_type_only_their_rows_are_unreadable(path: Path) -> None:
    """A table whose types were not enforced, as a program may leave it that edits the schema."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'runs'")
        db.commit()
    spoil(path, "UPDATE runs SET task = x'00ff', priority = 'high' WHERE id = 'r-bad'")
    await check_the_rest(path)
    assert (await repaired(path))[0].startswith("run r-bad")
    ((*_, row),) = aside(path)
    assert json.loads(row)["task"] == {"bytes": "00ff"}


async def test_the_leader_says_once_what_it_leaves_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(path, "UPDATE runs SET priority = 99 WHERE id = 'r-bad'")
    async with SqliteStore(path) as store:
        for _ in range(3):
            await store.runs()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "run r-bad cannot be read" in said
    assert "headway db check" in said


async def test_several_runs_that_begin_alike_are_still_named(path: Path) -> None:
    async with SqliteStore(path, read_only=True) as store:
        with pytest.raises(RunNotFound, match="r-bad, r-good"):
            await store.run("r-")


@pytest.mark.parametrize("value", ['{"a": 1, "b": 2, "c": 3}', "[1, 0, 7]", "[-1, 0, null]", "3"])
async def test_a_lesson_of_another_shape_teaches_nothing(path: Path, value: str) -> None:
    kinds = ("breaker", "limits", "run size")
    async with SqliteStore(path) as store:
        await store.commit(Batch(lessons=tuple(Lesson(kind, "q", value) for kind in kinds)))
    async with SqliteStore(path) as store:
        quotas = [Quota.per_minute("q", requests=600)]
        async with LocalScheduler(store, quotas, clock=store.clock) as scheduler:
            call = record(9, "r-new").call
            assert (await scheduler.acquire(call)).id == call.id


async def test_a_pause_that_no_provider_is_believed_ends_after_a_while(path: Path) -> None:
    spoil(path, "UPDATE buckets SET paused_until = 1e18 WHERE quota = 'q'")
    async with SqliteStore(path) as store:
        quotas = [Quota.per_minute("q", requests=600)]
        async with LocalScheduler(store, quotas, clock=store.clock) as scheduler:
            until = scheduler._pump.core.state.lanes.quotas["q"].breaker.paused_until
            assert until is not None
            assert until <= scheduler.now() + LONGEST_STATED_SECONDS
