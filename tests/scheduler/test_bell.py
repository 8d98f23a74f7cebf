"""Bells: hints between processes, which may be lost."""

import threading
from pathlib import Path

import pytest

from headway_scheduler.store import bell as module
from headway_scheduler.store.bell import Bell, bell_of, ring


def test_who_waits_is_woken_and_what_rang_before_is_heard_once(tmp_path: Path) -> None:
    path = bell_of(tmp_path / "headway.db", "w-1")
    bell = Bell(path)
    try:
        assert not bell.wait(0)
        for _ in range(3):
            ring(path)
        assert bell.wait(0)
        assert not bell.wait(0)
        ringer = threading.Timer(0.01, ring, [path])
        ringer.start()
        assert bell.wait(30)
        ringer.join()
    finally:
        bell.close()
    assert not path.exists()


def test_nobody_need_be_there(tmp_path: Path) -> None:
    path = bell_of(tmp_path / "headway.db")
    ring(path)
    bell = Bell(path)
    bell.close()
    bell.close()
    ring(path)
    assert not path.exists()


def test_who_comes_later_is_rung_and_keeps_its_bell(tmp_path: Path) -> None:
    """A leader that was frozen and replaced closes when it wakes up."""
    path = bell_of(tmp_path / "headway.db")
    frozen, leader = Bell(path), Bell(path)
    ring(path)
    assert (frozen.wait(0), leader.wait(0)) == (False, True)
    frozen.close()
    ring(path)
    assert leader.wait(0)
    leader.close()
    assert not path.exists()


def test_one_that_is_rung_too_often_still_rings(tmp_path: Path) -> None:
    path = bell_of(tmp_path / "headway.db")
    bell = Bell(path)
    for _ in range(70_000):  # more than a pipe holds
        ring(path)
    assert bell.wait(0)
    bell.close()


def test_without_pipes_one_looks_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNHEARD_SECONDS", 0.001)
    bell = Bell(tmp_path / "no folder" / "bell")
    assert bell.wait(60)
    bell.close()
