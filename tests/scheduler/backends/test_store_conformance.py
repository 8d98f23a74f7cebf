"""Conformance of stores: one suite, run on every engine."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest

from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import HeadwayError, KeyTaken, RunNotFound, StoreError
from headway_scheduler.model.batch import Answer, Batch, Lesson, OutboxRow, Snapshot
from headway_scheduler.model.batches import BatchedRequest, BatchState, Gathered, ProviderBatch
from headway_scheduler.model.calls import (
    Call,
    CallRecord,
    Priority,
    Route,
    ServiceLane,
    Spent,
    Usage,
)
from headway_scheduler.model.changes import Change
from headway_scheduler.model.data import replace
from headway_scheduler.model.notices import Notice, NoticeKind
from headway_scheduler.model.prompts import ChainNode, Chunk
from headway_scheduler.model.quotas import BucketState, Resource
from headway_scheduler.model.runs import Run, Task, Worker
from headway_scheduler.model.schedules import Overlap, Schedule, ScheduleState
from headway_scheduler.model.states import ENDED_RUNS, LIVE_CALLS, CallState, RunState
from headway_scheduler.ports import Store

pytestmark = pytest.mark.anyio

Make = Callable[[Path], Store]
STORES: dict[str, Make] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "headway.db"),
}


@pytest.fixture(params=STORES)
def unopened(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


@pytest.fixture
async def store(unopened: Store) -> AsyncIterator[Store]:
    async with unopened:
        yield unopened


def record(seq: int, state: CallState = CallState.QUEUED, *, run_id: str = "run") -> CallRecord:
    call = Call(
        id=f"call-{seq}",
        run_id=run_id,
        path="team/writer",
        model="small",
        quotas=("openai", "openai/small"),
        priority=Priority.HIGH,
        tokens=1200,
        submitted_at=100.5 + seq,
        request_hash="abc",
        occurrence=seq,
        kind="tool",
    )
    return CallRecord(call, seq, state)


def run(run_id: str, state: RunState = RunState.QUEUED, created_at: float = 1.0) -> Run:
    return Run(run_id, "report", "write it", Priority.NORMAL, state, created_at)


def ended(run_id: str, parent: str | None = None) -> Run:
    return replace(run(run_id, RunState.COMPLETED), parent=parent)


def every_field(seq: int) -> CallRecord:
    full = record(seq, CallState.DONE)
    full.attempts = 3
    full.not_before, full.admitted_at, full.sent_at, full.finished_at = 1.25, 2.25, 3.25, 4.25
    full.usage = Usage(11, 22)
    full.answer, full.error = '{"content": "yes"}', "first try: 500"
    full.arrival, full.lost_attempts = 7, 2
    full.routes = (
        Route("other", ("a", "b"), 7, 3, 4, 0.5, 1, unbounded=True),
        Route("small", ("a",), 7, lane=ServiceLane.FLEX, classes=(Priority.BACKGROUND,)),
    )
    return full


def chained(
    *texts: str, after: bytes | None = None
) -> tuple[tuple[Chunk, ...], tuple[ChainNode, ...]]:
    """A chain of texts with the hashes that they have in the database: of 16 bytes."""
    chunks, nodes = [], []
    for text in texts:
        chunk = Chunk(sha256(text.encode()).digest()[:16], text)
        node = ChainNode(sha256((after or b"") + chunk.hash).digest()[:16], after, chunk.hash)
        chunks.append(chunk)
        nodes.append(node)
        after = node.hash
    return tuple(chunks), tuple(nodes)


# Calls


async def test_an_empty_store_has_nothing(store: Store) -> None:
    assert await store.snapshot() == Snapshot()
    assert await store.run("any") is None
    assert await store.run_with_key("any") is None
    assert list(await store.runs()) == []
    assert list(await store.calls()) == []


async def test_every_field_of_a_new_call_comes_back(store: Store) -> None:
    await store.commit(Batch(new=(every_field(0),)))
    assert list(await store.calls()) == [every_field(0)]


async def test_every_field_of_a_changed_call_comes_back(store: Store) -> None:
    await store.commit(Batch(new=(record(0), record(1))))
    await store.commit(Batch(changed=(every_field(0),)))
    assert list(await store.calls()) == [every_field(0), record(1)]


async def test_what_comes_back_has_the_types_of_the_model(store: Store) -> None:
    await store.commit(Batch(new=(every_field(0),), runs=(run("a"),)))
    (found,) = await store.calls()
    assert type(found.call.priority) is Priority
    assert type(found.state) is CallState
    assert type(found.call.quotas) is tuple
    assert type(found.routes[1].classes[0]) is Priority
    (found_run,) = await store.runs()
    assert type(found_run.priority) is Priority
    assert type(found_run.state) is RunState


async def test_fields_can_be_emptied_again(store: Store) -> None:
    await store.commit(Batch(new=(every_field(0),)))
    await store.commit(Batch(changed=(record(0),)))
    assert list(await store.calls()) == [record(0)]


async def test_a_change_written_twice_is_the_same_as_once(store: Store) -> None:
    await store.commit(Batch(new=(record(0),)))
    for _ in range(2):
        await store.commit(Batch(changed=(every_field(0),), runs=(run("a"),)))
    assert list(await store.calls()) == [every_field(0)]
    assert list(await store.runs()) == [run("a")]


async def test_what_a_call_asks_for_never_changes(store: Store) -> None:
    await store.commit(Batch(new=(record(0),)))
    changes = {"run_id": "other", "path": "other", "request_hash": "other", "occurrence": 9}
    other = replace(every_field(0), call=replace(record(0).call, **changes, submitted_at=0.0))
    await store.commit(Batch(changed=(other,)))
    assert list(await store.calls()) == [every_field(0)]


async def test_only_its_class_and_its_route_may_change(store: Store) -> None:
    await store.commit(Batch(new=(record(0),)))
    route = Route("other", ("a", "b"), 7, 3, 4, 0.5)
    call = replace(route.taken_by(record(0).call), priority=Priority.LOW)
    changed = replace(record(0), call=call)
    await store.commit(Batch(changed=(changed,)))
    assert list(await store.calls()) == [changed]


async def test_the_last_change_of_each_target_stands_and_all_are_kept(store: Store) -> None:
    changes = [
        Change(1.0, "gate", "all", '["paused", 0]'),
        Change(2.0, "weight", "a", "2"),
        Change(3.0, "gate", "all", '["open", 0]'),
        Change(3.0, "gate", "all", '["open", 0]'),
    ]
    for change in changes:
        await store.commit(Batch(changes=(change,)))
    assert (await store.snapshot()).changes == (changes[1], changes[3])
    assert list(await store.changes()) == changes[::-1]
    assert list(await store.changes(limit=1)) == changes[3:]


async def test_without_a_limit_there_is_none(store: Store) -> None:
    count = 2500
    await store.commit(
        Batch(
            new=tuple(record(seq) for seq in range(count)),
            runs=tuple(run(f"r-{number}") for number in range(count)),
            changes=tuple(Change(1.0, "weight", f"{number}", "2") for number in range(count)),
        )
    )
    assert len(await store.changes()) == count
    for states in ((), {RunState.QUEUED}):
        assert len(await store.runs(states)) == count
        assert len(await store.runs(states, urgent_first=True)) == count
    for run_id in (None, "run"):
        assert len(await store.calls(run_id)) == count
        assert len(await store.calls(run_id, {CallState.QUEUED})) == count


async def test_a_lesson_replaces_the_one_before(store: Store) -> None:
    await store.commit(Batch(lessons=(Lesson("k", "b", "1"), Lesson("k", "a", "1"))))
    await store.commit(Batch(lessons=(Lesson("k", "b", "2"),)))
    assert (await store.snapshot()).lessons == (Lesson("k", "a", "1"), Lesson("k", "b", "2"))


async def test_a_call_without_a_quota_comes_back(store: Store) -> None:
    free = CallRecord(replace(record(0).call, quotas=()), 0)
    await store.commit(Batch(new=(free,)))
    assert list(await store.calls()) == [free]


async def test_later_changes_of_a_record_do_not_leak_in(store: Store) -> None:
    mine = record(0)
    await store.commit(Batch(new=(mine,)))
    mine.state = CallState.DONE
    (loaded,) = (await store.snapshot()).calls
    loaded.answer = "not yet"
    assert list(await store.calls()) == [record(0)]


async def test_calls_come_by_arrival(store: Store) -> None:
    await store.commit(Batch(new=(record(5), record(2))))
    await store.commit(Batch(new=(record(10), record(0))))
    assert [found.seq for found in await store.calls()] == [0, 2, 5, 10]
    assert [found.seq for found in (await store.snapshot()).calls] == [0, 2, 5, 10]


async def test_calls_are_chosen_by_run_and_by_state(store: Store) -> None:
    states = list(CallState)
    new = [record(seq, states[seq % 7], run_id=f"run-{seq % 2}") for seq in range(28)]
    await store.commit(Batch(new=tuple(new)))
    for run_id in (None, "run-0", "run-1", "run"):
        for wanted in ((), (CallState.QUEUED,), LIVE_CALLS, {CallState.DONE, CallState.SENT}):
            expected = [
                call
                for call in new
                if run_id in (None, call.call.run_id) and (not wanted or call.state in wanted)
            ]
            assert list(await store.calls(run_id, wanted)) == expected


async def test_calls_are_limited_to_the_first(store: Store) -> None:
    await store.commit(Batch(new=tuple(record(seq) for seq in range(9))))
    for states in ((), (CallState.QUEUED,), (CallState.QUEUED, CallState.DONE)):
        for run_id in (None, "run"):
            found = await store.calls(run_id, states, limit=4)
            assert [call.seq for call in found] == [0, 1, 2, 3]


# Snapshots


async def test_a_snapshot_has_the_live_calls_only(store: Store) -> None:
    await store.commit(Batch(new=tuple(map(record, range(7), CallState))))
    loaded = await store.snapshot()
    assert {call.state for call in loaded.calls} == LIVE_CALLS
    assert loaded.next_seq == 7


async def test_the_next_place_counts_finished_calls(store: Store) -> None:
    await store.commit(Batch(new=(record(3), record(41, CallState.DONE))))
    assert (await store.snapshot()).next_seq == 42


async def test_a_call_leaves_and_joins_the_snapshot_with_its_state(store: Store) -> None:
    await store.commit(Batch(new=(record(0),)))
    await store.commit(Batch(changed=(record(0, CallState.UNKNOWN),)))
    assert (await store.snapshot()).calls == ()
    await store.commit(Batch(changed=(record(0, CallState.QUEUED),)))
    assert (await store.snapshot()).calls == (record(0),)


async def test_being_parked_is_not_stored(store: Store) -> None:
    await store.commit(Batch(new=(replace(record(0), parked=True), record(1))))
    await store.commit(Batch(changed=(replace(record(1), parked=True),)))
    assert (await store.snapshot()).calls == (record(0), record(1))


async def test_a_bucket_is_overwritten(store: Store) -> None:
    tokens = BucketState("openai", Resource.TOKENS, -12.5, 100.0, 160.0, 450_000.0)
    requests = BucketState("openai", Resource.REQUESTS, 3.0, 100.0)
    other = BucketState("azure", Resource.REQUESTS, 1.0, 99.0)
    await store.commit(Batch(buckets=(tokens, requests, other)))
    changes = {"available": 7.0, "as_of": 101.0, "paused_until": None, "capacity": 300_000.0}
    later = replace(tokens, **changes)
    await store.commit(Batch(buckets=(later,)))
    assert (await store.snapshot()).buckets == (other, requests, later)


# Runs


async def test_every_field_of_a_run_comes_back(store: Store) -> None:
    full = Run(
        id="a",
        workflow="report",
        task="write it",
        priority=Priority.BACKGROUND,
        state=RunState.FAILED,
        created_at=1.5,
        key="order-7",
        component='{"provider": "team"}',
        started_at=2.5,
        finished_at=3.5,
        result="[]",
        error="no money",
    )
    await store.commit(Batch(runs=(full,)))
    assert await store.run("a") == full
    assert await store.run_with_key("order-7") == full
    assert list(await store.runs()) == [full]
    await store.commit(Batch(runs=(run("a"),)))
    assert await store.run("a") == run("a")
    assert await store.run_with_key("order-7") is None


async def test_the_last_row_of_a_run_in_a_commit_counts_whatever_is_null_in_it(
    store: Store,
) -> None:
    bare, full = run("a"), replace(run("a"), started_at=2.5, error="no money", worker="w-1")
    other = replace(run("b"), key="order-7")
    for rows in ((bare, full), (full, bare), (bare, other, full), (full, other, bare, bare)):
        await store.commit(Batch(runs=rows))
        last = [row for row in rows if row.id == "a"][-1]
        assert await store.run("a") == last


async def test_runs_come_newest_first(store: Store) -> None:
    await store.commit(Batch(runs=(run("b", created_at=2.0), run("a", created_at=3.0))))
    await store.commit(Batch(runs=(run("c", created_at=1.0), run("d", created_at=3.0))))
    await store.commit(Batch(runs=(run("b", RunState.RUNNING, created_at=2.0),)))
    assert [found.id for found in await store.runs()] == ["d", "a", "b", "c"]
    assert [found.id for found in await store.runs(limit=2)] == ["d", "a"]


async def test_runs_are_chosen_by_state(store: Store) -> None:
    new = [run(f"{at}", list(RunState)[at % 8], float(at)) for at in range(16)]
    await store.commit(Batch(runs=tuple(new)))
    wanted = {RunState.QUEUED, RunState.FAILED}
    expected = [found for found in reversed(new) if found.state in wanted]
    assert list(await store.runs(wanted)) == expected
    assert list(await store.runs(wanted, limit=3)) == expected[:3]


async def test_runs_are_chosen_by_team(store: Store) -> None:
    """A run that names no team belongs to the one that is called as its workflow."""
    named = replace(run("named", RunState.FAILED, 3.0), team="nightly")
    unnamed = replace(run("unnamed", RunState.QUEUED, 2.0), workflow="nightly")
    other = replace(run("other", RunState.QUEUED, 1.0), workflow="nightly", team="half \ud83d")
    await store.commit(Batch(runs=(named, unnamed, other)))
    assert list(await store.runs(team="nightly")) == [named, unnamed]
    assert list(await store.runs(team="nightly", limit=1)) == [named]
    assert list(await store.runs({RunState.QUEUED}, team="nightly")) == [unnamed]
    assert list(await store.runs(team="half \ud83d")) == [other]
    assert list(await store.runs(team="none")) == []


async def test_the_most_urgent_run_that_waits_longest_can_be_asked_for(store: Store) -> None:
    priorities = [Priority.LOW, Priority.HIGH, Priority.NORMAL]
    new = [
        replace(run(f"{at}", created_at=float(at // 2)), priority=priorities[at % 3])
        for at in range(12)
    ]
    busy = replace(run("busy", RunState.RUNNING, 0.0), priority=Priority.INTERACTIVE)
    await store.commit(Batch(runs=(busy, *reversed(new))))
    expected = ["1", "4", "7", "10", "2", "5", "8", "11", "0", "3", "6", "9"]
    found = await store.runs({RunState.QUEUED}, urgent_first=True)
    assert [each.id for each in found] == expected
    (first,) = await store.runs({RunState.QUEUED}, limit=1, urgent_first=True)
    assert first == new[1]
    both = await store.runs({RunState.QUEUED, RunState.RUNNING}, limit=2, urgent_first=True)
    assert [each.id for each in both] == ["busy", "1"]
    assert [each.id for each in await store.runs(limit=1, urgent_first=True)] == ["busy"]
    same = replace(new[1], id="same")
    await store.commit(Batch(runs=(same,)))
    await store.commit(Batch(runs=(replace(new[1], attempts=1),)))
    (first,) = await store.runs({RunState.QUEUED}, limit=1, urgent_first=True)
    assert first.id == "1"


async def test_a_run_is_found_by_the_start_of_its_id(store: Store) -> None:
    await store.commit(Batch(runs=(run("aa1"), run("aa"), run("ab"), run("b%_1"), run("bé2"))))
    for prefix, found in {"aa": "aa", "aa1": "aa1", "ab": "ab", "b%": "b%_1", "bé": "bé2"}.items():
        assert await store.run(prefix) == run(found)
    for prefix in ("c", "aa11", "AB", "%", "b_", "_", "a*"):
        assert await store.run(prefix) is None


async def test_an_ambiguous_start_names_five_candidates(store: Store) -> None:
    await store.commit(Batch(runs=tuple(run(f"ab{number}") for number in range(7))))
    with pytest.raises(RunNotFound, match=r"'ab' .* ab0, ab1, ab2, ab3, ab4, …: write more of it"):
        await store.run("ab")
    await store.commit(Batch(runs=(run("x1"), run("x2"))))
    with pytest.raises(RunNotFound, match="x1, x2: write"):
        await store.run("x")


async def test_a_key_belongs_to_one_run(store: Store) -> None:
    first = replace(run("a"), key="k")
    await store.commit(Batch(runs=(first,)))
    await store.commit(Batch(runs=(replace(first, state=RunState.RUNNING),)))
    with pytest.raises(KeyTaken, match="nothing was written"):
        await store.commit(Batch(new=(record(0),), runs=(replace(run("b"), key="k"),)))
    assert [found.id for found in await store.runs()] == ["a"]
    assert list(await store.calls()) == []


# All or nothing


REFUSED: dict[str, tuple[Batch, type[HeadwayError]]] = {
    "id taken": (Batch(new=(record(5), record(0))), KeyTaken),
    "seq taken": (Batch(new=(record(5), replace(record(6), seq=0))), KeyTaken),
    "twice in the batch": (Batch(new=(record(5), record(5))), KeyTaken),
    "changed but never written": (
        Batch(changed=(record(1, CallState.SENT), record(99))),
        StoreError,
    ),
    "key taken": (Batch(new=(record(5),), runs=(replace(run("c"), key="k"),)), KeyTaken),
}


def everything(number: int) -> Batch:
    """Something of each kind that a batch can hold, but for calls."""
    chunks, nodes = chained(f"said {number}", f"answered {number}")
    return Batch(
        buckets=(BucketState("openai", Resource.TOKENS, float(number), 1.0),),
        runs=(run("a", list(RunState)[number]), run(f"b{number}"), ended(f"old {number + 1}")),
        chunks=chunks,
        nodes=nodes,
        forget=(f"old {number}",),
        changes=(Change(1.0, "weight", "a", f"{number}"),),
        lessons=(Lesson("k", "a", f"{number}"), Lesson("k", f"{number}", "")),
        answers=(Answer(1 + number, f"{number}"),),
        taken=(3 + number,),
        outbox=(OutboxRow("w", f"{number}"),),
        seen=(("w", number),),
        joined=(Worker("w", 1, 1.0, slots=number), Worker(f"w{number}", 1, 1.0)),
        left=(f"w{number - 1}",),
        schedules=(scheduled("a", number), scheduled(f"s{number}")),
        unscheduled=(f"s{number - 1}",),
        notices=(notice("a", number), notice(f"n{number}")),
        told=(f"n{number - 1}",),
    )


def notice(id: str, attempts: int = 0, at: float = 1.0) -> Notice:
    return Notice(id, NoticeKind.BUDGET_LOW, at, '{"run": "r"}', attempts, 7.0 * attempts)


def scheduled(name: str, skipped: int = 0) -> ScheduleState:
    """A schedule that differs from the default in everything."""
    every = Schedule(
        name, "0 3 * * *", "Europe/Berlin", run(""), Overlap.BUFFER_ONE, 60.0, "/srv/headway.toml"
    )
    return ScheduleState(every, 9.0, True, 6.0, 3.0, "r-1", skipped)


async def content(store: Store) -> tuple[dict[str, object], list[str]]:
    """All that can be asked of a store, and every row of a database."""
    nodes = [node for number in range(2) for node in everything(number).nodes]
    asked: dict[str, object] = {
        "snapshot": await store.snapshot(),
        "calls": list(await store.calls()),
        "runs": list(await store.runs()),
        "changes": list(await store.changes()),
        "lessons": list(await store.lessons()),
        "workers": list(await store.workers()),
        "schedules": list(await store.schedules()),
        "notices": list(await store.notices()),
        "spent": list(await store.spent("model", 0.0)),
        "prompts": [await store.prompt(node.hash.hex()) for node in nodes],
    }
    if not isinstance(store, SqliteStore):
        return asked, []
    with closing(sqlite3.connect(store.path)) as db:
        return asked, list(db.iterdump())


async def begin(store: Store) -> None:
    """Commit some of everything: a key, an old run to be forgotten, requests and notifications."""
    calls = (record(0), record(1), paid(2, "m", Usage(1, 1), "a"))
    keyed = replace(run("keyed"), key="k")
    await store.commit(Batch(new=calls, runs=(keyed, ended("old 0"))))
    if isinstance(store, SqliteStore):
        mailbox = SqliteMailbox(store.path)
        assert [await mailbox.post("w", "please") for _ in range(4)] == [1, 2, 3, 4]
        await mailbox.close()
    await store.commit(everything(0))


@pytest.mark.parametrize("why", REFUSED)
async def test_a_refused_batch_writes_nothing(store: Store, why: str) -> None:
    refused, error = REFUSED[why]
    await begin(store)
    before = await content(store)
    rest = everything(1)
    runs = (*rest.runs, *refused.runs)
    for _ in range(2):
        with pytest.raises(error, match="nothing was written"):
            await store.commit(replace(rest, new=refused.new, changed=refused.changed, runs=runs))
        assert await content(store) == before
    asks = replace(record(3).call, request_hash=rest.nodes[-1].hash.hex())
    await store.commit(replace(rest, new=(CallRecord(asks, 3),)))
    after = await content(store)
    assert [name for name in after[0] if after[0][name] == before[0][name]] == ["spent"]


@pytest.mark.parametrize("why", REFUSED)
async def test_after_a_refusal_everything_else_is_written_and_stays(
    unopened: Store, why: str
) -> None:
    refused, error = REFUSED[why]
    async with unopened as store:
        await begin(store)
        with pytest.raises(error):
            await store.commit(refused)
        await store.commit(everything(1))
        after, _ = await content(store)
    async with unopened as store:
        assert (await content(store))[0] == after
        await store.commit(Batch(new=(record(5),), changed=(record(1, CallState.SENT),)))
        assert [call.seq for call in (await store.snapshot()).calls] == [0, 1, 5]


async def test_an_empty_batch_is_fine(store: Store) -> None:
    await store.commit(Batch())
    assert await store.snapshot() == Snapshot()


async def test_a_call_may_be_new_and_changed_in_one_batch(store: Store) -> None:
    await store.commit(Batch(new=(record(0),), changed=(every_field(0),)))
    assert list(await store.calls()) == [every_field(0)]


async def test_commits_from_many_tasks_all_arrive(store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        for seq in range(40):
            tasks.start_soon(store.commit, Batch(new=(record(seq),)))
            tasks.start_soon(store.snapshot)
    assert (await store.snapshot()).next_seq == 40


async def test_a_commit_under_cancellation_is_whole_and_known(store: Store) -> None:
    committed = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.commit(Batch(new=(record(0),)))
        committed.append(0)
    assert [call.seq for call in await store.calls()] == committed == [0]


async def test_what_was_committed_stays_when_it_is_closed(unopened: Store) -> None:
    async with unopened as store:
        await store.commit(Batch(new=(every_field(0),), runs=(run("a"),)))
    async with unopened as store:
        assert list(await store.calls()) == [every_field(0)]
        assert await store.run("a") == run("a")


# Texts


TEXTS = {
    "a megabyte": "x" * 1_000_000,
    "unicode": "Grüße, 你好, 🚂, \u0000, \r\n, '\"\\",
    "a lone surrogate": "half of a pair: \ud83d",
    "empty": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_any_text_comes_back_as_it_was(store: Store, text: str) -> None:
    """An answer that could not be stored would be paid for again, so none is refused."""
    answered = replace(every_field(0), answer=text, error=text)
    await store.commit(Batch(new=(record(0),)))
    await store.commit(Batch(new=(record(1),), changed=(answered,)))
    assert list(await store.calls()) == [answered, record(1)]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_any_text_can_be_asked_for(store: Store, text: str) -> None:
    odd = replace(run(f"id {text}"), key=text, task=text)
    call = CallRecord(replace(record(0).call, run_id=odd.id, quotas=(text,)), 0)
    await store.commit(Batch(new=(call,), runs=(odd,)))
    assert await store.run(odd.id) == odd
    assert await store.run_with_key(text) == odd
    assert list(await store.calls(odd.id)) == [call]


# Prompts


async def test_a_prompt_comes_back_in_order_and_twice_is_once(store: Store) -> None:
    chunks, nodes = chained("first", "second", "third")
    await store.commit(Batch(chunks=chunks[:2], nodes=nodes[:2]))
    await store.commit(Batch(chunks=chunks, nodes=nodes))
    await store.commit(Batch(chunks=chunks, nodes=(*nodes, *nodes)))
    assert list(await store.prompt(nodes[2].hash.hex()) or ()) == ["first", "second", "third"]
    assert list(await store.prompt(nodes[0].hash.hex()) or ()) == ["first"]
    assert await store.prompt("00" * 16) is None


async def test_a_forgotten_run_takes_its_texts_and_leaves_those_of_others(store: Store) -> None:
    chunks, nodes = chained("shared", "mine")
    other_chunks, other_nodes = chained("theirs", after=nodes[0].hash)
    calls = [record(0, CallState.DONE, run_id="old"), record(1, CallState.DONE, run_id="new")]
    for row, node in zip(calls, (nodes[1], other_nodes[0]), strict=True):
        row.call = replace(row.call, request_hash=node.hash.hex())
    await store.commit(
        Batch(
            new=tuple(calls),
            runs=(ended("old"), run("new")),
            chunks=(*chunks, *other_chunks),
            nodes=(*nodes, *other_nodes),
        )
    )
    await store.commit(Batch(forget=("old",)))
    assert [found.id for found in await store.runs()] == ["new"]
    assert [found.call.run_id for found in await store.calls()] == ["new"]
    assert await store.prompt(nodes[1].hash.hex()) is None
    assert list(await store.prompt(other_nodes[0].hash.hex()) or ()) == ["shared", "theirs"]


@pytest.mark.parametrize("state", RunState)
async def test_only_a_run_that_has_ended_is_forgotten(store: Store, state: RunState) -> None:
    await store.commit(Batch(new=(record(0, run_id="a"),), runs=(run("a", state), run("ab"))))
    await store.commit(Batch(forget=("a",)))
    is_gone = state in ENDED_RUNS
    assert [found.id for found in await store.runs()] == ["ab", "a"][: 2 - is_gone]
    assert len(await store.calls()) == 1 - is_gone


async def test_a_run_that_another_begins_with_is_not_forgotten(store: Store) -> None:
    family = (ended("a"), ended("b", "a"), ended("c", "b"), ended("d", "b"), ended("alone"))
    calls = [record(seq, CallState.DONE, run_id=each.id) for seq, each in enumerate(family)]
    await store.commit(Batch(new=tuple(calls), runs=family))
    await store.commit(Batch(forget=("a", "b", "c", "alone")))
    # The copy d stays, so what it begins with does, and what that begins with.
    assert {found.id for found in await store.runs()} == {"a", "b", "d"}
    assert [found.call.run_id for found in await store.calls()] == ["a", "b", "d"]
    await store.commit(Batch(forget=("a", "nobody")))
    assert {found.id for found in await store.runs()} == {"a", "b", "d"}
    await store.commit(Batch(forget=("a", "b", "d")))
    assert list(await store.runs()) == []
    assert list(await store.calls()) == []


async def test_what_was_spent_of_a_budget_is_forgotten_with_its_run(store: Store) -> None:
    budgets = [BucketState(f"run {id}", Resource.USD, -0.5, 1.0) for id in ("a", "b")]
    other = BucketState("run a", Resource.REQUESTS, 5.0, 1.0)  # a quota of such a name
    await store.commit(Batch(buckets=(*budgets, other), runs=(ended("a"), run("b"))))
    await store.commit(Batch(forget=("a", "b", "run a")))
    assert set((await store.snapshot()).buckets) == {budgets[1], other}


async def test_whether_a_call_may_cost_more_than_it_reserves_comes_back(store: Store) -> None:
    calls = [
        replace(record(seq).call, usd=0.25, unbounded=unbounded)
        for seq, unbounded in enumerate((True, False))
    ]
    await store.commit(Batch(new=tuple(CallRecord(call, n) for n, call in enumerate(calls))))
    assert [found.call for found in await store.calls()] == calls


async def test_a_forgotten_id_may_be_written_anew(store: Store) -> None:
    await store.commit(Batch(new=(record(0, run_id="a"),), runs=(replace(ended("a"), key="k"),)))
    await store.commit(Batch(forget=("a",)))
    assert await store.run_with_key("k") is None
    assert await store.snapshot() == Snapshot()
    await store.commit(Batch(new=(record(0, run_id="a"),), runs=(replace(run("a"), key="k"),)))
    assert [found.seq for found in await store.calls("a")] == [0]


async def test_a_long_prompt_comes_back_whole_and_stays_while_its_end_is_asked(
    store: Store,
) -> None:
    chunks, nodes = chained(*(f"said {number}" for number in range(10_000)))
    asked = [
        CallRecord(replace(record(seq).call, run_id=run_id, request_hash=node.hash.hex()), seq)
        for seq, (run_id, node) in enumerate((("old", nodes[-1]), ("new", nodes[5_000])))
    ]
    await store.commit(
        Batch(new=tuple(asked), runs=(ended("old"), run("new")), chunks=chunks, nodes=nodes)
    )
    assert list(await store.prompt(nodes[-1].hash.hex()) or ()) == [p.text for p in chunks]
    await store.commit(Batch(forget=("old",)))
    assert await store.prompt(nodes[5_001].hash.hex()) is None
    kept = await store.prompt(nodes[5_000].hash.hex())
    assert list(kept or ()) == [chunk.text for chunk in chunks[:5_001]]


async def test_a_text_that_is_there_stays_as_it_is(store: Store) -> None:
    (chunk,), (node,) = chained("first")
    other = Chunk(b"o" * 16, "other")
    await store.commit(Batch(chunks=(chunk,), nodes=(node,)))
    await store.commit(
        Batch(
            chunks=(replace(chunk, text="second"), other), nodes=(replace(node, chunk=other.hash),)
        )
    )
    assert list(await store.prompt(node.hash.hex()) or ()) == ["first"]


async def test_texts_may_come_before_their_links(store: Store) -> None:
    chunks, nodes = chained("first", "second")
    await store.commit(Batch(chunks=chunks))
    await store.commit(Batch(nodes=nodes))
    assert list(await store.prompt(nodes[1].hash.hex()) or ()) == ["first", "second"]


@pytest.mark.parametrize("words", ["", "abc", "no hash at all", "é", "00" * 32])
async def test_what_is_no_hash_has_no_prompt(store: Store, words: str) -> None:
    asked = CallRecord(replace(record(0).call, request_hash=words), 0)
    await store.commit(Batch(new=(asked,), runs=(ended("old"),)))
    assert await store.prompt(words) is None
    await store.commit(Batch(forget=("old",)))
    assert list(await store.calls()) == [asked]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_any_text_can_be_a_piece(store: Store, text: str) -> None:
    chunk = Chunk(b"t" * 16, text)
    await store.commit(Batch(chunks=(chunk,), nodes=(ChainNode(b"l" * 16, None, chunk.hash),)))
    assert list(await store.prompt((b"l" * 16).hex()) or ()) == [text]


async def test_every_field_of_a_run_that_goes_on_comes_back(store: Store) -> None:
    full = replace(
        run("a"),
        parameters='{"x": 1}',
        version="abc",
        history=(Task("first"), Task("second", "[]")),
        messages="[]",
        parent="b",
        parent_until=4,
        deadline=5.5,
        budget_usd=0.25,
        waits_for="a.3",
        attempts=2,
        resumed_at=6.5,
        lives_lost=2,
    )
    await store.commit(Batch(runs=(full, run("b"))))
    assert await store.run("a") == full


def paid(seq: int, model: str, usage: Usage | None, run_id: str, **changes: Any) -> CallRecord:
    row = record(seq, CallState.DONE, run_id=run_id)
    kind = changes.pop("kind", "model")
    return replace(row, call=replace(row.call, model=model, kind=kind), usage=usage, **changes)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("model", {"m": 4, "n": 1}),
        ("run", {"a": 3, "b": 1, "": 1}),
        ("workflow", {"report": 4, "": 1}),
        ("team", {"report": 3, "team": 1, "": 1}),
        ("day", {"1970-01-01": 4, "1970-01-02": 1}),
    ],
)
async def test_what_was_spent_is_counted_by_what_is_asked(
    store: Store, by: str, keys: dict[str, int]
) -> None:
    day = 86_400.0
    later = paid(4, "m", Usage(1, 1), "none")
    await store.commit(
        Batch(
            runs=(run("a"), replace(run("b"), team="team")),
            new=(
                paid(0, "m", Usage(10, 2), "a"),
                paid(1, "m", Usage(10, 2), "a", lost_attempts=1),
                paid(2, "m", None, "a", kind="sdk"),
                paid(3, "n", Usage(7, 0), "b"),
                replace(later, call=replace(later.call, submitted_at=day + 5)),
                paid(5, "m", Usage(99, 99), "a", kind="tool"),
                replace(paid(6, "m", None, "a"), state=CallState.QUEUED),
            ),
        )
    )
    spent = await store.spent(by, 0.0)
    found: Counter[str] = Counter()
    for each in spent:
        found[each.key] += each.calls
    assert found == keys
    assert sum(each.lost for each in spent) == 1
    tokens = sum(each.calls * each.usage.total for each in spent if each.usage is not None)
    assert tokens == 12 + 12 + 7 + 2
    assert sum(each.calls for each in spent if each.usage is None) == 1
    assert [each.calls for each in await store.spent(by, day)] == [1]


async def test_a_call_that_was_lost_and_never_answered_is_listed_as_lost(store: Store) -> None:
    lost = replace(paid(0, "m", None, "a", lost_attempts=2), state=CallState.UNKNOWN)
    await store.commit(Batch(new=(lost,)))
    assert await store.spent("model", 0.0) == [Spent("m", "m", None, 0, 2)]


async def test_who_executes_runs_and_which(store: Store) -> None:
    first = Worker("w-1", 11, 1.0, "night", 8, True, ("a", "b"))
    second = Worker("w-2", 12, 0.5)
    mine = replace(run("mine"), worker="w-1")
    await store.commit(Batch(joined=(first, second), runs=(mine, run("nobody's"))))
    assert await store.workers() == [second, first]
    assert [each.id for each in await store.assigned()] == ["mine"]
    assert (await store.run("mine")) == mine

    fewer = replace(first, slots=0, takes_interrupted=False)
    await store.commit(Batch(joined=(fewer,), runs=(replace(mine, worker=None),)))
    assert await store.workers() == [second, fewer]
    assert list(await store.assigned()) == []
    await store.commit(Batch(left=("w-2", "w-none")))
    assert await store.workers() == [fewer]


async def test_a_call_keeps_who_asked_for_it(store: Store) -> None:
    asked = replace(record(0), worker="w-1")
    await store.commit(Batch(new=(asked, record(1))))
    assert [row.worker for row in (await store.snapshot()).calls] == ["w-1", None]
    await store.commit(Batch(changed=(replace(asked, worker="w-2"),)))
    assert [row.worker for row in await store.calls()] == ["w-2", None]


async def test_a_schedule_replaces_the_one_before_and_goes(store: Store) -> None:
    assert list(await store.schedules()) == []
    plain = ScheduleState(Schedule("b", "* * * * *", "UTC", run("")), 1.0)
    await store.commit(Batch(schedules=(plain, scheduled("a"))))
    assert list(await store.schedules()) == [scheduled("a"), plain]
    moved = replace(plain, next_at=2.0, last_run="r-1", skipped=3)
    await store.commit(Batch(schedules=(moved,), unscheduled=("a", "none")))
    assert list(await store.schedules()) == [moved]


async def test_a_notice_is_there_until_it_is_told(store: Store) -> None:
    assert list(await store.notices()) == []
    rows = (notice("c", at=3.0), notice("a", at=2.0), notice("b", at=2.0))
    await store.commit(Batch(notices=rows))
    assert [each.id for each in await store.notices()] == ["a", "b", "c"]
    assert [each.id for each in await store.notices(limit=2)] == ["a", "b"]
    await store.commit(Batch(notices=(notice("a", 2, at=2.0),), told=("b", "none")))
    assert list(await store.notices()) == [notice("a", 2, at=2.0), notice("c", at=3.0)]


async def test_a_run_and_the_schedule_that_it_is_of_are_one_commit(store: Store) -> None:
    await store.commit(Batch(runs=(replace(run("a"), key="k"),)))
    both = Batch(runs=(replace(run("b"), key="k"),), schedules=(scheduled("a"),))
    with pytest.raises(KeyTaken):
        await store.commit(both)
    assert list(await store.schedules()) == []


async def test_lessons_are_given_back_by_themselves_too(store: Store) -> None:
    lessons = (Lesson("a", "x", "1"), Lesson("b", "x", "2"))
    await store.commit(Batch(lessons=lessons[::-1]))
    assert tuple(await store.lessons()) == lessons == (await store.snapshot()).lessons


# Batches of the provider


def by_batch(seq: int, state: CallState = CallState.BATCHED, run_id: str = "run") -> CallRecord:
    found = record(seq, state, run_id=run_id)
    found.call = replace(found.call, lane=ServiceLane.BATCH)
    return found


def request(seq: int, batch_id: str | None = None, answer: str | None = None) -> BatchedRequest:
    body = "{}" + "é" * seq
    return BatchedRequest(f"call-{seq}", "m", "/v1/x", body, 10.0 + seq, batch_id, answer)


def provider_batch(batch_id: str, state: BatchState, created_at: float = 1.0) -> ProviderBatch:
    return ProviderBatch(batch_id, "m", "/v1/x", state, created_at, "file", None)


async def test_requests_are_gathered_and_placed(store: Store) -> None:
    batched = tuple(by_batch(seq) for seq in range(3))
    requests = (request(0), request(1), replace(request(2), endpoint="/v1/y"))
    await store.commit(Batch(new=batched, requests=requests))
    assert list(await store.gathered()) == [
        Gathered("m", "/v1/x", 2, 6, 10.0),
        Gathered("m", "/v1/y", 1, 6, 12.0),
    ]
    planned = provider_batch("b", BatchState.PLANNED)
    placed = (request(0, "b"), request(1, "b"))
    await store.commit(Batch(requests=placed, provider_batches=(planned,)))
    assert list(await store.batched_requests("b")) == list(placed)
    assert [each.call_id for each in await store.batched_requests(None)] == ["call-2"]
    assert list(await store.provider_batches()) == [planned]


async def test_batches_are_kept_until_they_have_ended(store: Store) -> None:
    submitted = replace(provider_batch("b", BatchState.SUBMITTED, 2.0), provider_id="p")
    await store.commit(
        Batch(provider_batches=(submitted, provider_batch("a", BatchState.PLANNED, 3.0)))
    )
    assert [each.id for each in await store.provider_batches()] == ["b", "a"]
    assert (await store.provider_batches())[0] == submitted
    later = replace(submitted, created_at=4.0)
    await store.commit(Batch(provider_batches=(later,)))
    assert (await store.provider_batches())[1] == later
    await store.commit(Batch(provider_batches=(replace(later, state=BatchState.ENDED),)))
    assert [each.id for each in await store.provider_batches()] == ["a"]


async def test_requests_of_calls_that_ended_are_forgotten_with_the_next_batch(
    store: Store,
) -> None:
    await store.commit(Batch(new=(by_batch(0), by_batch(1)), requests=(request(0), request(1))))
    await store.commit(Batch(changed=(by_batch(0, CallState.DONE),)))
    await store.commit(Batch(provider_batches=(provider_batch("b", BatchState.PLANNED),)))
    assert [each.call_id for each in await store.batched_requests(None)] == ["call-1"]


async def test_answers_are_those_of_the_run(store: Store) -> None:
    calls = (by_batch(0), by_batch(1, run_id="other"), by_batch(2, CallState.DONE))
    requests = tuple(request(seq, "b", f'{{"status_code": {seq}}}') for seq in range(3))
    await store.commit(Batch(new=calls, requests=requests))
    assert await store.batch_answers("run") == {"call-0": '{"status_code": 0}'}


async def test_runs_wake_when_their_call_is_answered_or_has_left_its_batch(store: Store) -> None:
    waits = {"answered": 0, "left": 1, "batched": 2, "person": 3}
    runs = [
        replace(run(name, RunState.WAITING), waits_for=f"call-{n}") for name, n in waits.items()
    ]
    left, person = by_batch(1, CallState.QUEUED), record(3)
    await store.commit(
        Batch(
            new=(by_batch(0), left, by_batch(2), person),
            requests=(request(0, "b", "{}"), request(2, "b")),
            runs=(*runs, replace(run("running", RunState.RUNNING), waits_for="call-0")),
        )
    )
    assert sorted(each.id for each in await store.runs_to_wake()) == ["answered", "left"]


async def test_batched_calls_of_runs_that_are_over_are_unwanted(store: Store) -> None:
    states = {
        "cancelled": RunState.CANCELLED,
        "completed": RunState.COMPLETED,
        "failed": RunState.FAILED,
        "waiting": RunState.WAITING,
    }
    calls = [by_batch(n, run_id=name) for n, name in enumerate(states)]
    done = by_batch(9, CallState.DONE, run_id="cancelled")
    runs = tuple(run(name, state) for name, state in states.items())
    await store.commit(Batch(new=(*calls, done), runs=runs))
    assert list(await store.unwanted_calls()) == ["call-0", "call-1"]


async def test_batched_calls_have_not_ended(store: Store) -> None:
    await store.commit(Batch(new=(by_batch(0), by_batch(1, CallState.DONE))))
    assert [each.call.id for each in (await store.snapshot()).calls] == ["call-0"]
