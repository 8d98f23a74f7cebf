"""The SQLite store among real processes: locks, readers, and ``kill -9``."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from headway_scheduler.errors import StoreBusy
from headway_scheduler.model import Batch, Call, CallRecord, Priority
from headway_scheduler.store import SqliteStore
from headway_scheduler.store.lock import FileLock

pytestmark = pytest.mark.anyio

# Commits one call after the other. Prints the number of each that is committed.
WRITER = """
import itertools, sys
import anyio
from headway_scheduler.model import Batch, Call, CallRecord, Priority
from headway_scheduler.store import SqliteStore

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


async def test_a_lock_on_a_file_that_was_removed_is_worth_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the holder before may go and take the file with it."""
    before = FileLock(path)
    system_open = os.open
    opened = []

    def open_then_lose(*args: object, **options: object) -> int:
        opened.append(system_open(*args, **options))  # type: ignore[arg-type]
        if len(opened) == 1:
            before.release()
        return opened[-1]

    monkeypatch.setattr(os, "open", open_then_lose)
    lock = FileLock(path)
    assert len(opened) == 2
    with pytest.raises(StoreBusy, match=f"process {os.getpid()};"):
        FileLock(path)
    lock.release()
    assert list(path.parent.iterdir()) == []
