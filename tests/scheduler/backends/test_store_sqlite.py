"""The SQLite store: what is in the file and on the disk, who may read it, how it is migrated."""

import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.waiting import HANG_SECONDS

from headway_scheduler.backends.sqlite import opening, reads
from headway_scheduler.backends.sqlite.sql import APPLICATION_ID, MIGRATIONS, NEWEST
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import (
    RowRefused,
    StoreBusy,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreTooNew,
)
from headway_scheduler.model.batch import Batch, Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headway.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(path) as opened:
        yield opened


def record(seq: int, answer: str | None = None) -> CallRecord:
    call = Call(f"call-{seq}", "run", "writer", "small", ("q",), Priority.NORMAL, 10, 1.0)
    return CallRecord(call, seq, CallState.QUEUED, answer=answer)


def batch(*seqs: int, answer: str | None = None) -> Batch:
    return Batch(new=tuple(record(seq, answer) for seq in seqs))


async def seqs(store: SqliteStore) -> list[int]:
    return [found.seq for found in await store.calls()]


def on_disk(folder: Path) -> dict[str, bytes]:
    """All names below ``folder`` with their bytes."""
    return {
        str(file.relative_to(folder)): b"" if file.is_dir() else file.read_bytes()
        for file in sorted(folder.rglob("*"))
    }


@contextmanager
def refused(path: Path, kind: type[StoreError], words: str) -> Iterator[None]:
    """The block raises ``kind``, in one line that names the file, and leaves the disk as it was."""
    before = on_disk(path.parent)
    with pytest.raises(kind, match=words) as caught:
        yield
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert on_disk(path.parent) == before


async def make(path: Path, *batches: Batch, read_only: bool = False) -> None:
    """Open and close; what opens against expectation must not stay open."""
    async with SqliteStore(path, read_only=read_only) as made:
        for each in batches:
            await made.commit(each)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


# What is in the file


async def test_the_settings_hold_on_the_connection_that_writes(store: SqliteStore) -> None:
    assert store._writer is not None
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "fullfsync": 1,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "application_id": APPLICATION_ID,
        "user_version": NEWEST,
    }
    for name, value in expected.items():
        async with store._writer.execute(f"PRAGMA {name}") as cursor:
            assert await cursor.fetchone() == (value,), name


async def test_the_mark_in_the_header_spells_our_name() -> None:
    assert APPLICATION_ID.to_bytes(4, "big") == b"HDWY"


async def test_every_table_is_strict(path: Path) -> None:
    await make(path)
    with closing(sqlite3.connect(path)) as db:
        listed = db.execute("SELECT name, strict FROM pragma_table_list WHERE name != 'x'")
        tables = {name: strict for name, strict in listed if not name.startswith("sqlite_")}
    names = ("runs", "calls", "buckets", "pieces", "links", "changes", "lessons", "set_aside")
    names += ("inbox", "outbox", "leadership", "workers", "provider_batches", "batched_requests")
    names += ("schedules", "notices")
    names += ("tries", "waits", "crowds")
    assert tables == dict.fromkeys(names, 1)


async def test_a_call_is_of_the_kind_model(path: Path) -> None:
    await make(path, batch(0))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT kind FROM calls").fetchall() == [("model",)]


async def test_one_commit_is_one_hop_to_the_thread(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store._writer is not None
    hops = []
    execute_there = store._writer._execute

    async def counted(*args: object) -> object:
        hops.append(args)
        return await execute_there(*args)

    monkeypatch.setattr(store._writer, "_execute", counted)
    run = Run("a", "w", "t", Priority.LOW, RunState.QUEUED, 1.0)
    await store.commit(Batch((record(0), record(1)), (record(0),), (), (run,)))
    assert len(hops) == 1


async def test_a_number_that_cannot_be_stored_is_refused(store: SqliteStore) -> None:
    for odd in (2**70, 2**63, 5.5, float("nan"), b"x", object()):
        refused = CallRecord(replace(record(0).call, tokens=odd), 0)  # type: ignore[arg-type]
        with pytest.raises(RowRefused, match="nothing was written"):
            await store.commit(Batch(new=(refused,)))
    await store.commit(batch(0))


async def test_a_long_read_does_not_delay_a_commit(path: Path, store: SqliteStore) -> None:
    await store.commit(batch(0))
    is_reading, committed = anyio.Event(), threading.Event()

    def read_slowly(db: sqlite3.Connection) -> Snapshot:
        reads.snapshot(db)
        tell_reading()
        assert committed.wait(HANG_SECONDS)
        return reads.snapshot(db)

    async with anyio.create_task_group() as tasks:
        tell_reading = partial(anyio.from_thread.run_sync, is_reading.set)
        seen: list[Snapshot] = []

        async def reader() -> None:
            seen.append(await store._read(read_slowly))

        tasks.start_soon(reader)
        await is_reading.wait()
        await store.commit(batch(1))
        committed.set()
    assert [call.seq for call in seen[0].calls] == [0]  # one question sees one moment
    assert await seqs(store) == [0, 1]


async def test_a_cancelled_commit_is_still_known(store: SqliteStore) -> None:
    returned = False
    async with anyio.create_task_group() as tasks:

        async def commit() -> None:
            nonlocal returned
            await store.commit(batch(*range(2000)))
            returned = True

        tasks.start_soon(commit)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert returned
    assert len(await store.calls(limit=5000)) == 2000


# Folders and modes


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_what_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "headway.db"
    async with SqliteStore(path) as store:
        await store.commit(batch(0))
        names = {file.name: mode(file) for file in path.parent.iterdir()}
    beside = ("", "-wal", "-shm", ".lock")
    assert names == {f"headway.db{suffix}": 0o600 for suffix in beside}
    assert [mode(folder) for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


async def test_a_closed_database_is_one_file(path: Path) -> None:
    await make(path, batch(0))
    assert list(on_disk(path.parent)) == ["headway.db"]


async def test_the_mode_of_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    await make(folder / "headway.db")
    assert mode(folder) == 0o755


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    write(path, b"")
    await make(path, batch(0))
    assert mode(path) == 0o600


async def test_a_path_may_have_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "ü ?mode=ro#%41&x.db"
    await make(path, batch(0))
    async with SqliteStore(path, read_only=True) as store:
        assert await seqs(store) == [0]
    assert list(on_disk(tmp_path)) == [path.name]


async def test_two_names_of_one_file_have_one_lock(path: Path, store: SqliteStore) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(StoreBusy):
        await make(link)


# Reading only


async def test_reading_leaves_no_trace(path: Path) -> None:
    await make(path, batch(0))
    before = on_disk(path.parent)
    async with SqliteStore(path, read_only=True) as store:
        assert await seqs(store) == [0]
        assert (await store.snapshot()).next_seq == 1
        assert on_disk(path.parent) == before
    assert on_disk(path.parent) == before


async def test_reading_what_is_not_there_says_what_to_do(path: Path) -> None:
    with refused(path, StoreMissing, "no such database: start a run .*HEADWAY_DATABASE"):
        await make(path, read_only=True)


async def test_a_store_that_reads_refuses_to_write(path: Path) -> None:
    await make(path)
    async with SqliteStore(path, read_only=True) as store:
        with refused(path, StoreReadOnly, "opened to be read only"):
            await store.commit(batch(0))


async def test_a_reader_sees_a_writer_come_and_go(path: Path) -> None:
    await make(path, batch(0))
    async with SqliteStore(path, read_only=True) as reader:
        assert await seqs(reader) == [0]
        async with SqliteStore(path) as writer:
            await writer.commit(batch(1))
            assert await seqs(reader) == [0, 1]
        assert await seqs(reader) == [0, 1]


async def test_what_a_writer_disturbed_is_read_again(path: Path) -> None:
    await make(path, batch(0))
    asked = []

    def disturbed(db: sqlite3.Connection) -> Snapshot:
        answer = reads.snapshot(db)
        if not asked:
            anyio.from_thread.run(make, path, batch(1))
        asked.append(answer)
        return answer

    async with SqliteStore(path, read_only=True) as reader:
        assert (await reader._read(disturbed)).next_seq == 2
    assert [answer.next_seq for answer in asked] == [1, 2]


async def test_a_store_that_is_not_open_refuses_to_write(path: Path) -> None:
    closed = SqliteStore(path)
    with refused(path, StoreError, "not open"):
        await closed.commit(batch(0))
    async with closed:
        pass
    with refused(path, StoreError, "not open"):
        await closed.commit(batch(0))


# Migrations


@contextmanager
def newer_headway(monkeypatch: pytest.MonkeyPatch, script: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "MIGRATIONS", {**MIGRATIONS, NEWEST + 1: script})
        patch.setattr(reads, "NEWEST", NEWEST + 1)
        yield


async def test_migrations_are_numbered_without_gaps() -> None:
    assert list(MIGRATIONS) == list(range(1, NEWEST + 1))


async def test_an_older_database_is_migrated_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path, batch(0))
    with newer_headway(monkeypatch, "CREATE TABLE songs (name TEXT) STRICT; -- the end"):
        with refused(path, StoreError, "older Headway .* start a run once to migrate it"):
            await make(path, read_only=True)
        for _ in range(2):
            async with SqliteStore(path) as store:
                assert await seqs(store) == [0]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (NEWEST + 1,)
        assert db.execute("SELECT * FROM songs").fetchall() == []
    with refused(path, StoreTooNew, "upgrade"):
        await make(path)


async def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path, batch(0))
    script = "CREATE TABLE songs (name TEXT) STRICT; INSERT INTO nowhere VALUES (1);"
    with newer_headway(monkeypatch, script), refused(path, StoreError, "nowhere"):
        await make(path)
    async with SqliteStore(path) as store:
        assert await seqs(store) == [0]


async def test_a_first_start_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "headway.db"
    with (
        newer_headway(monkeypatch, "INSERT INTO nowhere VALUES (1);"),
        pytest.raises(StoreError, match="nowhere"),
    ):
        await make(path)
    assert on_disk(tmp_path) == {}


async def test_the_rest_of_a_killed_first_start_is_cleared_away(path: Path) -> None:
    path.with_name("headway.db.new").write_bytes(b"half")
    path.with_name("headway.db.new-journal").write_bytes(b"half")
    await make(path, batch(0))
    assert list(on_disk(path.parent)) == ["headway.db"]


async def test_another_program_that_keeps_it_locked_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "BUSY_SECONDS", 0.01)
    async with SqliteStore(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy, match="another program keeps it locked"):
                await store.commit(batch(0))
            other.execute("ROLLBACK")
        await store.commit(batch(0))
        assert await seqs(store) == [0]


async def test_a_database_of_the_first_format_is_migrated_with_its_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(MIGRATIONS[1])
        db.execute(
            "INSERT INTO runs (id, workflow, task, priority, state, created_at) "
            "VALUES ('r-old', 'report', 'write', 2, 'completed', 1.0)"
        )
        db.execute(
            "INSERT INTO calls (seq, id, run_id, path, model, quotas, priority, tokens, "
            "submitted_at, request_hash, occurrence, state, attempts, answer) VALUES "
            "(0, 'r-old.0', 'r-old', 'writer', 'm', '[]', 2, 5, 1.0, 'abc', 0, 'done', 1, '{}')"
        )
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    async with SqliteStore(path) as store:
        old = await store.run("r-old")
        assert old is not None
        assert (old.history, old.attempts, old.parent) == ((), 0, None)
        (row,) = await store.calls()
        assert (row.call.kind, row.arrival, row.lost_attempts, row.answer) == (
            "model",
            None,
            0,
            "{}",
        )
    with closing(sqlite3.connect(f"{path}.v1")) as kept:
        assert kept.execute("PRAGMA user_version").fetchone() == (1,)
        assert kept.execute("SELECT id FROM calls").fetchall() == [("r-old.0",)]
