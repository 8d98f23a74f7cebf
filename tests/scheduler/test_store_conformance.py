"""What every store does. One suite, run on each of them."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from headway_scheduler.errors import RunNotFound, StoreError
from headway_scheduler.model import (
    Batch,
    BucketState,
    Call,
    CallRecord,
    Link,
    Piece,
    Priority,
    Resource,
    Run,
    Snapshot,
    Usage,
)
from headway_scheduler.states import LIVE_CALLS, CallState, RunState
from headway_scheduler.store import MemoryStore, SqliteStore, Store

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


def every_field(seq: int) -> CallRecord:
    full = record(seq, CallState.DONE)
    full.attempts = 3
    full.not_before, full.admitted_at, full.sent_at, full.finished_at = 1.25, 2.25, 3.25, 4.25
    full.usage = Usage(11, 22)
    full.answer, full.error = '{"content": "yes"}', "first try: 500"
    full.arrival, full.losses = 7, 2
    return full


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
    other = replace(every_field(0), call=replace(record(0).call, tokens=1))
    await store.commit(Batch(changed=(other,)))
    assert list(await store.calls()) == [every_field(0)]


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
    tokens = BucketState("openai", Resource.TOKENS, -12.5, 100.0, 160.0)
    requests = BucketState("openai", Resource.REQUESTS, 3.0, 100.0)
    other = BucketState("azure", Resource.REQUESTS, 1.0, 99.0)
    await store.commit(Batch(buckets=(tokens, requests, other)))
    later = replace(tokens, available=7.0, as_of=101.0, paused_until=None)
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
    with pytest.raises(StoreError, match="nothing was written"):
        await store.commit(Batch(new=(record(0),), runs=(replace(run("b"), key="k"),)))
    assert [found.id for found in await store.runs()] == ["a"]
    assert list(await store.calls()) == []


# All or nothing


@pytest.mark.parametrize(
    "refused",
    [
        Batch(new=(record(5), record(0))),
        Batch(new=(record(5), replace(record(6), seq=0))),
        Batch(new=(record(5), record(5))),
        Batch(changed=(record(1, CallState.SENT), record(99))),
    ],
    ids=["id taken", "seq taken", "twice in the batch", "changed but never written"],
)
async def test_a_refused_batch_writes_nothing(store: Store, refused: Batch) -> None:
    await store.commit(Batch(new=(record(0), record(1)), runs=(run("a"),)))
    before = await store.snapshot(), await store.calls(), await store.runs()
    tokens = BucketState("openai", Resource.TOKENS, 1.0, 1.0)
    with pytest.raises(StoreError, match="nothing was written"):
        await store.commit(
            replace(refused, buckets=(tokens,), runs=(run("a", RunState.FAILED), run("b")))
        )
    assert (await store.snapshot(), await store.calls(), await store.runs()) == before
    await store.commit(Batch(new=(record(2),)))
    assert len(await store.calls()) == 3


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


def chained(*texts: str, after: bytes | None = None) -> tuple[tuple[Piece, ...], tuple[Link, ...]]:
    """A chain of texts; the hashes only have to differ."""
    pieces, links = [], []
    for text in texts:
        piece = Piece(text.encode().ljust(16, b"p")[:16], text)
        link = Link((piece.hash[:8] + (after or b"start-of")[:8]), after, piece.hash)
        pieces.append(piece)
        links.append(link)
        after = link.hash
    return tuple(pieces), tuple(links)


async def test_a_prompt_comes_back_in_order_and_twice_is_once(store: Store) -> None:
    pieces, links = chained("first", "second", "third")
    await store.commit(Batch(pieces=pieces[:2], links=links[:2]))
    await store.commit(Batch(pieces=pieces, links=links))
    await store.commit(Batch(pieces=pieces, links=(*links, *links)))
    assert list(await store.prompt(links[2].hash.hex()) or ()) == ["first", "second", "third"]
    assert list(await store.prompt(links[0].hash.hex()) or ()) == ["first"]
    assert await store.prompt("00" * 16) is None


async def test_a_forgotten_run_takes_its_texts_and_leaves_those_of_others(store: Store) -> None:
    pieces, links = chained("shared", "mine")
    other_pieces, other_links = chained("theirs", after=links[0].hash)
    calls = [record(0, CallState.DONE, run_id="old"), record(1, CallState.DONE, run_id="new")]
    for row, link in zip(calls, (links[1], other_links[0]), strict=True):
        row.call = replace(row.call, request_hash=link.hash.hex())
    await store.commit(
        Batch(
            new=tuple(calls),
            runs=(run("old"), run("new")),
            pieces=(*pieces, *other_pieces),
            links=(*links, *other_links),
        )
    )
    await store.commit(Batch(forget=("old",)))
    assert [found.id for found in await store.runs()] == ["new"]
    assert [found.call.run_id for found in await store.calls()] == ["new"]
    assert await store.prompt(links[1].hash.hex()) is None
    assert list(await store.prompt(other_links[0].hash.hex()) or ()) == ["shared", "theirs"]


async def test_every_field_of_a_run_that_goes_on_comes_back(store: Store) -> None:
    full = replace(
        run("a"),
        parameters='{"x": 1}',
        version="abc",
        history=("first", "second"),
        parent="b",
        parent_until=4,
        deadline=5.5,
        budget_usd=0.25,
        waits_for="a.3",
        attempts=2,
        resumed_at=6.5,
    )
    await store.commit(Batch(runs=(full, run("b"))))
    assert await store.run("a") == full
