"""A process that is stopped while it has SQLite's write lock is continued; no other one is."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.scheduler.backends.writers import WRITER, is_stopped, needs_locks

from headway_scheduler.backends.sqlite import lock_file, mailbox, reads
from headway_scheduler.backends.sqlite.leadership import SILENT_SECONDS
from headway_scheduler.backends.sqlite.lock_file import FileLock, LeaseMonitor
from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.backends.sqlite.stopped_writer import wake_writer
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority

pytestmark = [pytest.mark.anyio, needs_locks]

CALL = CallRecord(Call("call", "run", "writer", "small", ("q",), Priority.NORMAL, 10, 1.0), 1)


@contextmanager
def writer(path: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the write lock of the database, ``stopped`` or ``running``."""
    program = [sys.executable, "-c", WRITER, str(path), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "has it\n"
            while is_stopped(process) != (how == "stopped"):
                pass
            yield process
        finally:
            process.kill()


async def test_nobody_is_continued_where_nobody_writes(tmp_path: Path) -> None:
    path = tmp_path / "headway.db"
    assert not wake_writer(path)
    async with SqliteStore(path):
        assert not wake_writer(path)


async def test_one_that_runs_keeps_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "headway.db"
    monkeypatch.setattr(reads, "BUSY_SECONDS", 0.01)
    async with SqliteStore(path) as store:
        with writer(path, "running") as process:
            assert not wake_writer(path)
            process.send_signal(signal.SIGSTOP)
            while not is_stopped(process):
                pass
            assert wake_writer(path)
            assert process.communicate("")[0] == ""
        await store.commit(Batch(new=(CALL,)))


async def test_a_commit_continues_the_one_that_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / "headway.db", tmp_path / "other.db"
    monkeypatch.setattr(reads, "BUSY_SECONDS", 0.5)
    async with SqliteStore(other), SqliteStore(path) as store:
        with writer(other, "stopped") as unrelated, writer(path, "stopped") as process:
            await store.commit(Batch(new=(CALL,)))
            assert process.wait() == 0
            assert is_stopped(unrelated)
        assert len(await store.calls()) == 1
    assert f"process {process.pid} was stopped" in caplog.text


class SlowMachine:
    """Time of a process that gets to run once a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


async def test_a_leader_is_replaced_before_one_that_posts_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would lead on. Who looks late may have been stopped too: so that counts for both."""
    path = tmp_path / "headway.db"
    async with SqliteStore(path):
        pass
    for module in (mailbox, lock_file):
        monkeypatch.setattr(module, "time", SlowMachine())
    monitor, could_lead = LeaseMonitor(path, SILENT_SECONDS), []
    posting = SqliteMailbox(path)
    post = posting._post

    def look_and_post(*request: Any) -> int:
        could_lead.append(monitor.look())
        return post(*request)

    monkeypatch.setattr(posting, "_post", look_and_post)
    with ExitStack() as stack:
        lock = FileLock(path, "w-silent", heartbeat_seconds=3600)
        stack.callback(lock.release)
        process = stack.enter_context(writer(path, "stopped"))
        await posting.post("w-me", "a request")
        assert process.wait() == 0
        assert len(await posting.waiting(())) == 1
    await posting.close()
    assert could_lead[-1] is not None


async def test_opening_does_too(tmp_path: Path) -> None:
    path = tmp_path / "headway.db"
    async with SqliteStore(path):
        pass
    with writer(path, "stopped") as process:
        async with SqliteStore(path) as store:
            assert process.wait() == 0
            assert list(await store.calls()) == []
