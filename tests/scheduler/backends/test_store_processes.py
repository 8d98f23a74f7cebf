"""The SQLite store among real processes: locks, readers, and ``kill -9``."""

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from headway_scheduler.backends.sqlite import lock_file, opening, reads
from headway_scheduler.backends.sqlite import mailbox as module
from headway_scheduler.backends.sqlite.leadership import SILENT_SECONDS
from headway_scheduler.backends.sqlite.lock_file import (
    LOOK_SECONDS,
    FileLock,
    LeaseMonitor,
    LockVacancy,
    State,
)
from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import StoreBusy, StoreTakenOver
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority

pytestmark = pytest.mark.anyio

# Commits one call after the other. Prints the number of each that is committed.
WRITER = """
import itertools, sys
import anyio
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.backends.sqlite.store import SqliteStore

def record(seq):
    call = Call(f"call-{seq}", "run", "writer", "small", ("q",), Priority.NORMAL, 10, 1.0)
    return CallRecord(call, seq, answer="x" * 5000)

async def main():
    async with SqliteStore(sys.argv[1]) as store:
        for number in itertools.count():
            await store.commit(Batch(new=(record(2 * number), record(2 * number + 1))))
            print(number, flush=True)

anyio.run(main)
"""

# Counts the calls as any SQLite program would.
GUEST = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(*db.execute("SELECT count(*) FROM calls").fetchone())
db.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headway.db"


class Writer:
    """Another process that commits without end."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._output = BufferedByteReceiveStream(process.stdout)

    async def next_commit(self) -> int:
        return int(await self._output.receive_until(b"\n", 100))

    async def kill(self) -> list[int]:
        """``kill -9``; what it had printed by then."""
        self.process.kill()
        await self.process.wait()
        numbers = []
        try:
            while True:
                numbers.append(await self.next_commit())
        except anyio.IncompleteRead:
            return numbers


@asynccontextmanager
async def writer_of(path: Path) -> AsyncIterator[Writer]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WRITER, str(path)]
    async with await anyio.open_process(command, env=environment, stderr=None) as process:
        try:
            yield Writer(process)
        finally:
            if process.returncode is None:
                process.kill()


def batch(seq: int) -> Batch:
    call = Call(f"call-{seq}", "run", "writer", "small", ("q",), Priority.NORMAL, 10, 1.0)
    return Batch(new=(CallRecord(call, seq),))


async def make(path: Path) -> None:
    """Open and close; what opens against expectation must not stay open."""
    async with SqliteStore(path):
        pass


async def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    async with writer_of(path) as writer:
        await writer.next_commit()
        words = (
            rf"^{path}: is in use by process {writer.process.pid}; stop it or use another "
            r"database \(HEADWAY_DATABASE\)$"
        )
        with pytest.raises(StoreBusy, match=words):
            await make(path)
        await writer.next_commit()
        await writer.kill()
        async with SqliteStore(path) as store:
            assert await store.calls(limit=1)


async def test_no_printed_commit_is_lost_by_kill_9(path: Path) -> None:
    printed = -1
    async with writer_of(path) as writer:
        for _ in range(150):
            printed = await writer.next_commit()
        printed = max([printed, *await writer.kill()])
    async with SqliteStore(path) as store:
        found = [record.seq for record in await store.calls(limit=100_000)]
        assert found == list(range(len(found)))
        assert len(found) % 2 == 0  # no half of a batch
        assert len(found) >= 2 * (printed + 1)
        await store.commit(batch(len(found)))


async def test_the_rest_of_a_killed_writer_can_be_read(path: Path) -> None:
    async with writer_of(path) as writer:
        printed = max([await writer.next_commit(), *await writer.kill()])
    async with SqliteStore(path, read_only=True) as store:
        assert len(await store.calls(limit=100_000)) >= 2 * (printed + 1)


async def test_readers_take_no_lock_and_see_what_another_process_commits(path: Path) -> None:
    async with writer_of(path) as writer:
        await writer.next_commit()
        async with (
            SqliteStore(path, read_only=True) as first,
            SqliteStore(path, read_only=True) as second,
        ):
            for _ in range(20):
                number = await writer.next_commit()
                for reader in (first, second):
                    assert (await reader.snapshot()).next_seq >= 2 * (number + 1)


async def test_other_stores_of_a_process_do_not_drop_its_locks(path: Path) -> None:
    """The system frees all locks on a file when a process closes any handle of it."""
    async with SqliteStore(path) as store:
        await store.commit(batch(0))
        async with SqliteStore(path, read_only=True) as second:
            await second.snapshot()
        with pytest.raises(StoreBusy):
            await make(path)
        # A guest that believes to be the last one would remove the log under the writer.
        guest = [sys.executable, "-c", GUEST, str(path)]
        assert (await anyio.run_process(guest)).stdout == b"1\n"
        await store.commit(batch(1))
        assert (await anyio.run_process(guest)).stdout == b"2\n"


def state_of(path: Path) -> State:
    status = Path(f"{path}.lock").stat()
    return status.st_ino, status.st_mtime_ns


def lock(path: Path) -> FileLock:
    return FileLock(path, "w-test", heartbeat_seconds=0.25)


def wait_for_a_heartbeat(path: Path, before: State) -> None:
    while state_of(path) == before:
        time.sleep(0.01)


@contextmanager
def frozen(lock: FileLock) -> Iterator[None]:
    """Stop the pulse of a store of this process, as SIGSTOP would."""
    lock._end.set()
    lock._heartbeat_thread.join()
    yield


async def test_whoever_takes_over_shuts_out_the_frozen_process_for_good(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.commit(batch(0))
        with frozen(store._opened.lock):
            async with SqliteStore(path, vacancy=LockVacancy(state_of(path))) as other:
                assert other.epoch == store.epoch + 1
                for _ in range(2):
                    with pytest.raises(StoreTakenOver, match="another process took over"):
                        await store.commit(batch(1))
                await other.commit(batch(2))
                assert [record.seq for record in await store.calls()] == [0, 2]
                await store.__aexit__()
                with pytest.raises(StoreBusy):  # its lock was not the other's to remove
                    await make(path)
                await other.commit(batch(3))
    assert list(path.parent.glob("*.lock")) == []


async def test_one_that_lives_again_is_not_taken_over(path: Path) -> None:
    async with SqliteStore(path) as store:
        before = state_of(path)
        await to_thread.run_sync(wait_for_a_heartbeat, path, before)
        with pytest.raises(StoreBusy):
            async with SqliteStore(path, vacancy=LockVacancy(before)):
                pass
        await store.commit(batch(0))


def test_one_that_finds_another_in_the_place_of_the_frozen_one_does_not_wait_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the leader is frozen; it would wait as long as the other one leads."""
    unlink, waits = Path.unlink, 0

    def unlink_then_lose(*args: Any, **options: Any) -> None:
        unlink(*args, **options)
        locks.callback(lock(path).release)

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        assert waits < 100

    with ExitStack() as locks, monkeypatch.context() as patch:
        silent = FileLock(path, "w-silent", heartbeat_seconds=3600)
        locks.callback(silent.release)
        patch.setattr(Path, "unlink", unlink_then_lose)
        patch.setattr(lock_file.time, "sleep", sleep)
        vacancy = LockVacancy(state_of(path))
        with pytest.raises(StoreBusy, match=f"process {os.getpid()};"):
            FileLock(path, "w-test", heartbeat_seconds=0.25, vacancy=vacancy)


async def test_who_lost_the_lock_while_opening_does_not_lead(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(path)
    prepare = opening._prepare

    def prepare_then_lose(*args: Any) -> None:
        prepare(*args)
        Path(f"{path}.lock").unlink()

    monkeypatch.setattr(opening, "_prepare", prepare_then_lose)
    with pytest.raises(StoreBusy, match="in this moment"):
        await make(path)
    monkeypatch.undo()
    async with SqliteStore(path) as store:
        assert store.epoch == 2


async def test_a_watcher_counts_only_what_it_has_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After both were stopped, for hours, the holder has its time to show life again."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    held, monitor = lock(path), LeaseMonitor(path, SILENT_SECONDS)
    with frozen(held):
        monitor.look()
        now += 3600
        assert monitor.look() is None
        for _ in range(7):
            now += LOOK_SECONDS
            monitor.look()
        assert monitor.look() == LockVacancy(state_of(path))
    held.release()
    assert monitor.look() == LockVacancy()


async def test_a_request_is_posted_whole_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(module, "POST_SECONDS", 0.0)
    await make(path)
    mailbox, other = SqliteMailbox(path), reads.connect(path, "mode=rw")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="another program keeps it locked: end"):
        await mailbox.post("test", "{}")
    other.execute("ROLLBACK")
    other.close()
    request_id = await mailbox.post("test", "{}")
    assert [request.id for request in await mailbox.waiting(())] == [request_id]
    assert list(await mailbox.waiting({request_id})) == []
    await mailbox.close()


async def test_a_lock_on_a_file_that_was_removed_is_worth_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the holder before may go and take the file with it."""
    before = lock(path)
    system_open = os.open
    opened = []

    def open_then_lose(*args: object, **options: object) -> int:
        opened.append(system_open(*args, **options))  # type: ignore[arg-type]
        if len(opened) == 1:
            before.release()
        return opened[-1]

    monkeypatch.setattr(os, "open", open_then_lose)
    held = lock(path)
    assert len(opened) == 2
    with pytest.raises(StoreBusy, match=f"process {os.getpid()};"):
        lock(path)
    held.release()
    assert list(path.parent.iterdir()) == []
