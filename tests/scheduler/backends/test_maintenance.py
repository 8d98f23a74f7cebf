"""Databases looked over, copied and made smaller."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from headway_scheduler.backends.sqlite import opening
from headway_scheduler.backends.sqlite.maintenance import compact, problems
from headway_scheduler.backends.sqlite.opening import back_up
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import StoreBusy, StoreError
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.prompts import ChainNode, Chunk
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState

pytestmark = pytest.mark.anyio
HASHES = [bytes([n]) * 16 for n in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headway.db"


def call(seq: int, state: CallState, **fields: object) -> CallRecord:
    made = Call(f"r.{seq}", "r", "a", "m", (), Priority.NORMAL, 1, 1.0, occurrence=seq)
    return replace(CallRecord(made, seq, state), **fields)  # type: ignore[arg-type]


def sound() -> Batch:
    run = Run("r", "w", "t", Priority.NORMAL, RunState.COMPLETED, 1.0)
    chunks = tuple(Chunk(each, "words") for each in HASHES[:2])
    nodes = (ChainNode(HASHES[2], None, HASHES[0]), ChainNode(HASHES[3], HASHES[2], HASHES[1]))
    rows = (call(0, CallState.DONE, answer="{}"), call(1, CallState.CANCELLED))
    return Batch(rows, runs=(run,), chunks=chunks, nodes=nodes)


async def made(path: Path, batch: Batch | None = None) -> None:
    async with SqliteStore(path) as store:
        await store.commit(batch or sound())


async def test_a_sound_database_has_no_problems_also_while_it_is_written(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.commit(sound())
        assert problems(path) == []
    assert problems(path) == []
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("DELETE FROM pieces", "lacks a text of its own"),
        ("DELETE FROM links WHERE parent IS NULL", "lacks its beginning"),
        ("UPDATE calls SET answer = NULL", "is not there: call r.0"),
        ("UPDATE calls SET state = 'queued' WHERE seq = 1", "has ended: call r.1"),
        ("UPDATE runs SET parent = 'gone'", "copy of one that is gone: run r"),
    ],
)
async def test_what_no_journal_has_is_found(path: Path, harm: str, said: str) -> None:
    await made(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(harm)
        db.commit()
    assert any(said in problem for problem in problems(path))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8192 * 12 : 8192 * 13] = os.urandom(8192)
    path.write_bytes(content)


def size(path: Path) -> int:
    return path.stat().st_size


async def test_a_damaged_page_is_found(path: Path) -> None:
    many = tuple(call(n, CallState.DONE, answer="x" * 4_000) for n in range(50))
    await made(path, Batch(many))
    damage(path)
    try:
        found = problems(path)
    except StoreError as error:
        found = [str(error)]
    assert found


async def test_a_backup_is_taken_beside_whoever_writes(path: Path) -> None:
    target = path.with_name("copy.db")
    async with SqliteStore(path) as store:
        await store.commit(sound())
        back_up(path, target)
        await store.commit(Batch((call(2, CallState.QUEUED),)))
    assert target.stat().st_mode & 0o777 == 0o600
    async with SqliteStore(target, read_only=True) as copy:
        assert [row.seq for row in await copy.calls()] == [0, 1]
    assert problems(target) == []


async def test_a_backup_is_of_one_moment_although_others_write_between_its_parts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite begins a copy again when somebody writes, unless the copier has a snapshot open."""
    monkeypatch.setattr(opening, "PAGES", 1)
    await made(path, sound())
    target, told = path.with_name("copy.db"), list[tuple[int, int]]()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:

        def write(done: int, total: int) -> None:
            told.append((done, total))
            values = (f"{total}", f"{len(told)}", "1")
            other.execute("INSERT INTO lessons (kind, subject, value) VALUES (?, ?, ?)", values)

        write(0, 0)  # from here on it has a log, as beside a process that works on it
        told.clear()
        back_up(path, target, write)
    assert len(told) > 3
    assert told == [(number, told[-1][1]) for number in range(1, len(told) + 1)]
    assert told[-1][0] == told[-1][1]
    async with SqliteStore(target, read_only=True) as copy:
        assert [each.subject for each in await copy.lessons()] == ["1"]
        assert [row.seq for row in await copy.calls()] == [0, 1]
    async with SqliteStore(path, read_only=True) as store:
        assert len(await store.lessons()) == len(told) + 1


async def test_a_backup_overwrites_nothing_and_leaves_nothing_half_done(path: Path) -> None:
    target = path.with_name("copy.db")
    target.write_text("precious")
    await made(path)
    with pytest.raises(StoreError, match="is there already"):
        back_up(path, target)
    assert target.read_text() == "precious"
    with pytest.raises(StoreError):
        back_up(path.with_name("none.db"), path.with_name("other.db"))
    assert sorted(each.name for each in path.parent.iterdir()) == ["copy.db", "headway.db"]


async def test_what_was_deleted_is_given_back_to_the_disk(path: Path) -> None:
    run = Run("r", "w", "t", Priority.NORMAL, RunState.COMPLETED, 1.0)
    many = tuple(call(n, CallState.DONE, answer="x" * 4_000) for n in range(200))
    async with SqliteStore(path) as store:
        await store.commit(Batch(many, runs=(run,)))
        await store.commit(Batch(forget=("r",)))
        with pytest.raises(StoreBusy):
            compact(path)
    before = size(path)
    compact(path)
    assert size(path) < before / 2
    assert problems(path) == []
    async with SqliteStore(path) as store:
        assert await store.calls() == []
