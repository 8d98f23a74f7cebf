"""Bells: hints between processes, which may be lost."""

import os
import resource
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from headway_scheduler.backends.sqlite import notifier as module
from headway_scheduler.backends.sqlite.notifier import Listener, NamedPipe, pipe_of, ring
from headway_scheduler.backends.sqlite.store import SqliteStore


def test_who_waits_is_woken_and_what_rang_before_is_heard_once(tmp_path: Path) -> None:
    path = pipe_of(tmp_path / "headway.db", "w-1")
    pipe = NamedPipe(path)
    try:
        assert not pipe.wait(0)
        for _ in range(3):
            ring(path)
        assert pipe.wait(0)
        assert not pipe.wait(0)
        ringer = threading.Timer(0.01, ring, [path])
        ringer.start()
        assert pipe.wait(30)
        ringer.join()
    finally:
        pipe.close()
    assert not path.exists()


def test_nobody_need_be_there(tmp_path: Path) -> None:
    path = pipe_of(tmp_path / "headway.db", "leader")
    ring(path)
    pipe = NamedPipe(path)
    pipe.close()
    pipe.close()
    ring(path)
    assert not path.exists()


def test_who_comes_later_is_rung_and_keeps_its_pipe(tmp_path: Path) -> None:
    """A leader that was frozen and replaced closes when it wakes up."""
    path = pipe_of(tmp_path / "headway.db", "leader")
    frozen, leader = NamedPipe(path), NamedPipe(path)
    ring(path)
    assert (frozen.wait(0), leader.wait(0)) == (False, True)
    frozen.close()
    ring(path)
    assert leader.wait(0)
    leader.close()
    assert not path.exists()


def test_one_that_is_rung_too_often_still_rings(tmp_path: Path) -> None:
    path = pipe_of(tmp_path / "headway.db", "leader")
    pipe = NamedPipe(path)
    for _ in range(70_000):  # more than a pipe holds
        ring(path)
    assert pipe.wait(0)
    pipe.close()


def test_without_pipes_one_looks_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS_WITHOUT_PIPE", 0.001)
    pipe = NamedPipe(tmp_path / "no folder" / "pipe")
    assert pipe.wait(60)
    pipe.close()


@pytest.mark.anyio
async def test_a_listener_that_looks_rarely_stops_when_told(tmp_path: Path) -> None:
    looks: list[None] = []
    path = tmp_path / "headway.db"
    async with SqliteStore(path):
        listener = Listener(path, "w-1", lambda: looks.append(None), poll_seconds=3600)
        listener.close()
    assert len(looks) == 1


def test_a_process_with_many_open_files_is_woken_too(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = tmp_path / "pipe"
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
        for _ in range(1024):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        pipe = stack.enter_context(closing(NamedPipe(path)))
        assert not pipe.wait(0)
        ring(path)
        assert pipe.wait(0)
