"""The SQLite store after a power cut: what a commit that returned had written is there.

A disk may have any part of what was written since the last sync. So after every commit that returns
(which is a sync) the files are copied, and the files of two neighbours are mixed as a cut between
them may leave them: first the log is written and synced; only then, at a checkpoint, the database.
SQLite finds the end of such a log by checksums. The oracle is the memory store, told the same
batches.

That a sync is asked for at all is in the settings that ``test_store_sqlite`` reads back. What a
disk does with it is the disk's affair.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.prompts import ChainNode, Chunk
from headway_scheduler.model.quotas import BucketState, Resource
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Store

pytestmark = pytest.mark.anyio

COMMITS = 24
PAGES_PER_CHECKPOINT = 30
"""SQLite's own number is 1000: too many for each of these tests to see several of them."""
SECTOR = 512


@dataclass(frozen=True)
class Files:
    """A database and its log at one moment."""

    database: bytes
    log: bytes

    @classmethod
    def of(cls, path: Path) -> "Files":
        log = path.with_name(f"{path.name}-wal")
        return cls(path.read_bytes(), log.read_bytes() if log.exists() else b"")

    def put(self, path: Path) -> Path:
        path.parent.mkdir()
        path.write_bytes(self.database)
        path.with_name(f"{path.name}-wal").write_bytes(self.log)
        return path


# What is committed


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


def started(number: int) -> CallRecord:
    hash = digest(number).hex()
    call = Call(f"r.{number}", "r", "writer", "m", ("q",), Priority.NORMAL, 9, 1.0, hash)
    return CallRecord(call, number, CallState.ADMITTED, attempts=1)


def finished(record: CallRecord, random: Random) -> CallRecord:
    answer = "".join(random.choices("abc ", k=random.choice([10, 2_000, 30_000])))
    return replace(record, state=CallState.DONE, answer=answer, arrival=record.seq)


def batches(random: Random) -> Iterator[Batch]:
    """A run's calls, each with its prompt; every commit also ends the call before."""
    before: tuple[CallRecord, ...] = ()
    for number in range(COMMITS):
        record = started(number)
        text = f"{number} " + "x" * random.choice([10, 5_000])
        yield Batch(
            new=(record,),
            changed=tuple(finished(each, random) for each in before),
            buckets=(BucketState("q", Resource.TOKENS, 100.0 - number, float(number)),),
            runs=(replace(RUN, attempts=number),),
            chunks=(Chunk(digest(number), text),),
            nodes=(
                ChainNode(digest(number), digest(number - 1) if number else None, digest(number)),
            ),
            forget=("old",) if number == COMMITS // 2 else (),
        )
        before = (record,)


RUN = Run("r", "report", "write", Priority.NORMAL, RunState.RUNNING, 1.0)
OLD = Batch(
    new=(CallRecord(replace(started(1_000).call, run_id="old"), 1_000, CallState.DONE),),
    runs=(replace(RUN, id="old", state=RunState.COMPLETED),),
    chunks=(Chunk(digest(1_000), "old words"),),
    nodes=(ChainNode(digest(1_000), None, digest(1_000)),),
)


async def content(store: Store) -> object:
    """Everything that can be asked of a store."""
    calls = list(await store.calls(limit=10_000))
    numbers = [*range(COMMITS), 1_000]
    prompts = [await store.prompt(digest(number).hex()) for number in numbers]
    texts = [None if prompt is None else list(prompt) for prompt in prompts]
    return await store.snapshot(), calls, list(await store.runs()), texts


async def lived(path: Path, random: Random) -> AsyncIterator[tuple[Files, object]]:
    """The files and the right content after every commit that returned."""
    oracle = MemoryStore()
    async with SqliteStore(path) as store:
        assert store._writer is not None
        async with store._writer.execute(f"PRAGMA wal_autocheckpoint = {PAGES_PER_CHECKPOINT}"):
            pass
        for batch in (OLD, *batches(random)):
            await store.commit(batch)
            await oracle.commit(batch)
            yield Files.of(path), await content(oracle)


# What a cut may leave


def cut_off(before: bytes, after: bytes, at: int) -> bytes:
    """The first bytes arrived; the file ends there, or goes on as it was."""
    return after[:at] + before[at:]


def torn(before: bytes, after: bytes, random: Random) -> bytes:
    """Any of the sectors that differ arrived, in whatever order the disk liked."""
    old = before.ljust(len(after), b"\0")
    parts = []
    for start in range(0, len(after), SECTOR):
        source = after if random.random() < 0.5 else old
        parts.append(source[start : start + SECTOR])
    return b"".join(parts)


def first_difference(before: bytes, after: bytes) -> int:
    pairs = enumerate(zip(before, after, strict=False))
    return next((at for at, (old, new) in pairs if old != new), min(len(before), len(after)))


def cuts(before: bytes, after: bytes, random: Random) -> Iterator[bytes]:
    """The contents that a file may have after a power cut, if it was written and not yet synced."""
    start = first_difference(before, after)
    ends = {start, start + 1, start + SECTOR, len(after) - 1}
    ends |= {random.randint(start, len(after)) for _ in range(2)}
    for end in sorted(ends):
        yield cut_off(before, after, end)
    for _ in range(2):
        yield torn(before, after, random)


async def found_in(files: Files, folder: Path) -> object:
    async with SqliteStore(files.put(folder / "headway.db")) as store:
        return await content(store)


@pytest.mark.parametrize("seed", range(2))
async def test_a_commit_that_returned_survives_and_the_next_is_there_wholly_or_not(
    tmp_path: Path, seed: int
) -> None:
    random, number, checkpoints, kept = Random(seed), 0, 0, 0
    last: tuple[Files, object] | None = None
    async for files, right in lived(tmp_path / "headway.db", Random(seed)):
        if last is not None:
            before, right_before = last
            left = [Files(before.database, log) for log in cuts(before.log, files.log, random)]
            for each in left:
                number += 1
                found = await found_in(each, tmp_path / f"{number}")
                assert found in (right, right_before)
                kept += found == right
            if before.database != files.database:
                checkpoints += 1
                for database in cuts(before.database, files.database, random):
                    number += 1
                    mixed = Files(database, files.log)
                    assert await found_in(mixed, tmp_path / f"{number}") == right
        assert await found_in(files, tmp_path / f"whole {number}") == right
        last = files, right
    # Some of everything was seen.
    assert checkpoints >= 3
    assert 0 < kept < number / 2


async def test_after_a_cut_the_store_goes_on(tmp_path: Path) -> None:
    lives = [life async for life in lived(tmp_path / "headway.db", Random(7))]
    (before, right_before), (after, right) = lives[-2:]
    end = first_difference(before.log, after.log) + 100
    files = Files(before.database, cut_off(before.log, after.log, end))
    path = files.put(tmp_path / "cut" / "headway.db")
    *_, last = batches(Random(7))
    async with SqliteStore(path) as store:
        assert await content(store) == right_before
        await store.commit(Batch(runs=(replace(RUN, attempts=99),)))
    async with SqliteStore(path) as store:
        run = await store.run("r")
        assert run is not None
        assert run.attempts == 99
        await store.commit(last)
        assert await content(store) == right
