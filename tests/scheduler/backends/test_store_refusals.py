"""The SQLite store: files and disks that it refuses, each with its error, and leaves alone."""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from headway_scheduler.backends.sqlite.sql import NEWEST
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import (
    StoreCorrupt,
    StoreError,
    StoreForeign,
    StoreFull,
    StoreReadOnly,
    StoreTooNew,
)
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.states import CallState

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


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garble(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * length)


def fill(disk: Path, free_pages: int) -> Path:
    """Leave so many pages of 4 KiB free."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    os.truncate(ballast, ballast.stat().st_size - free_pages * 4096)
    return ballast


async def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


# Files that are refused


async def test_what_is_not_sqlite_is_left_alone(path: Path) -> None:
    write(path, b"these are my notes, keep them\n" * 100)
    for read_only in (False, True):
        with refused(path, StoreForeign, "not a Headway database .* move it away"):
            await make(path, read_only=read_only)


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_another_program_s_database_is_left_alone(path: Path, journal: str) -> None:
    await execute(path, f"PRAGMA journal_mode = {journal}; CREATE TABLE songs (name)")
    for read_only in (False, True):
        with refused(path, StoreForeign, "another program: move it away"):
            await make(path, read_only=read_only)


async def test_a_newer_database_is_left_alone(path: Path) -> None:
    await make(path, batch(0))
    await execute(path, f"PRAGMA user_version = {NEWEST + 1}")
    for read_only in (False, True):
        words = rf"newer Headway \(format {NEWEST + 1}, this one knows {NEWEST}\): upgrade"
        with refused(path, StoreTooNew, words):
            await make(path, read_only=read_only)


async def test_a_newer_format_that_is_only_in_the_log_is_seen(path: Path) -> None:
    await make(path)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute(f"PRAGMA user_version = {NEWEST + 1}")
        with pytest.raises(StoreTooNew):
            await make(path)
    assert list(on_disk(path.parent)) == ["headway.db"]


async def test_a_cut_off_database_is_left_alone(path: Path) -> None:
    await make(path, batch(*range(500)))
    cut(path)
    for read_only in (False, True):
        with refused(path, StoreCorrupt, "damaged .* bring back a backup"):
            await make(path, read_only=read_only)


async def test_a_garbled_schema_is_left_alone(path: Path) -> None:
    await make(path, batch(0))
    garble(path, 100, 3000)
    for read_only in (False, True):
        with refused(path, StoreCorrupt, "damaged"):
            await make(path, read_only=read_only)


async def test_damage_deeper_down_is_named_when_it_is_met(path: Path) -> None:
    await make(path, batch(*range(3000), answer="x" * 200))
    garble(path, 20 * 8192, 80 * 8192)
    async with SqliteStore(path, read_only=True) as store:
        with pytest.raises(StoreCorrupt, match="damaged"):
            await store.calls(limit=3000)


async def test_a_value_that_was_never_written_is_damage(path: Path) -> None:
    await make(path, batch(0))
    await execute(path, "UPDATE calls SET state = 'lost'")
    async with SqliteStore(path) as store:
        with pytest.raises(StoreCorrupt, match="'lost' is not a valid CallState"):
            await store.calls("run")
        assert await store.calls() == []  # of all, it is left out and named
        assert [row.why for row in store.unreadable] == ["'lost' is not a valid CallState"]


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    for read_only in (False, True):
        with refused(path, StoreError, "is not a file"):
            await make(path, read_only=read_only)


# What may not be written


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_missing_permissions_are_named(
    path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the answer of the system is made up."""
    await make(path)
    place = path if what == "file" else path.parent
    monkeypatch.setattr(os, "access", lambda asked, _: Path(asked) != place)
    with refused(path, StoreReadOnly, f"{place} may not be written"):
        await make(path)


@asynccontextmanager
async def immutable(place: Path) -> AsyncIterator[None]:
    """Not even root may write to it."""
    try:
        result = await anyio.run_process(["chattr", "+i", str(place)], check=False)
    except FileNotFoundError:
        pytest.skip("there is no chattr here")
    if result.returncode:
        pytest.skip(f"chattr +i does not work here: {result.stderr.decode().strip()}")
    try:
        yield
    finally:
        await anyio.run_process(["chattr", "-i", str(place)])


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_place_that_cannot_be_written_is_named(path: Path, what: str) -> None:
    await make(path, batch(0))
    async with immutable(path if what == "file" else path.parent):
        with refused(path, StoreReadOnly, "may not be written"):
            await make(path)
        async with SqliteStore(path, read_only=True) as store:
            assert await seqs(store) == [0]


async def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", denied)
    with refused(tmp_path / "new" / "headway.db", StoreReadOnly, "Read-only file system"):
        await make(tmp_path / "new" / "headway.db")


async def test_what_sqlite_finds_read_only_is_named(store: SqliteStore) -> None:
    await execute_there(store, "PRAGMA query_only = ON")
    with pytest.raises(StoreReadOnly, match="may not be written"):
        await store.commit(batch(0))


async def execute_there(store: SqliteStore, statement: str) -> None:
    """On the connection that writes."""
    assert store._writer is not None
    async with store._writer.execute(statement):
        pass


# A full disk


async def test_a_full_database_goes_on_when_there_is_room(store: SqliteStore) -> None:
    await store.commit(batch(0))
    await execute_there(store, "PRAGMA max_page_count = 40")
    with pytest.raises(StoreFull, match="free some space"):
        await store.commit(batch(1, *range(100, 200), answer="x" * 10_000))
    assert await seqs(store) == [0]
    await store.commit(batch(2))
    await execute_there(store, "PRAGMA max_page_count = 100000")
    await store.commit(batch(1, *range(100, 200), answer="x" * 10_000))
    assert await seqs(store) == [0, 1, 2, *range(100, 200)]


@asynccontextmanager
async def small_disk(place: Path) -> AsyncIterator[Path]:
    """A disk of 2 MB."""
    await anyio.Path(place).mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        result = await anyio.run_process(command, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if result.returncode:
        pytest.skip(f"no disk can be mounted here: {result.stderr.decode().strip()}")
    try:
        yield place
    finally:
        await anyio.run_process(["umount", str(place)])


async def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    async with small_disk(tmp_path / "disk") as disk:
        path = disk / "headway.db"
        ballast = disk / "ballast"
        async with SqliteStore(path) as store:
            await store.commit(batch(0))
            ballast.write_bytes(b"x" * 1_000_000)
            with pytest.raises(StoreFull, match="free some space"):
                await store.commit(batch(1, answer="x" * 1_000_000))
            assert await seqs(store) == [0]
            ballast.unlink()
            await store.commit(batch(1, answer="x" * 300_000))
        async with SqliteStore(path) as store:
            assert await seqs(store) == [0, 1]


@pytest.mark.parametrize("free_pages", [0, 1, 4, 20])
async def test_no_room_for_a_new_database_leaves_nothing(tmp_path: Path, free_pages: int) -> None:
    async with small_disk(tmp_path / "disk") as disk:
        ballast = fill(disk, free_pages)
        with refused(disk / "headway.db", StoreFull, "free some space"):
            await make(disk / "headway.db")
        ballast.unlink()
        await make(disk / "headway.db")
